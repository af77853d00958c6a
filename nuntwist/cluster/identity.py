"""Who a node is: its id, and the highest epoch it has seen, both kept in its data directory.

The id is random and made once; addresses are only ways to reach a node. The epoch is on the
disk before it is used or told to anybody, and never goes back.
"""

from __future__ import annotations

import json
import random
import zlib

from nuntwist.errors import StartError
from nuntwist.files import Files, replace_durably
from nuntwist.values import NO_EPOCH, Epoch

FILE_NAME = "node.json"


class Identity:
    """The identity of a node.

    :param files: its data directory.
    :param chance: for a new id.
    :raise StartError: it cannot be read or written.
    :ivar node_id: 64 random bits.
    :ivar epoch: the highest seen.
    """

    def __init__(self, files: Files, chance: random.Random) -> None:
        self._files = files
        self.epoch = NO_EPOCH
        try:
            if FILE_NAME in files.names():
                self._read()
            else:
                self.node_id = chance.getrandbits(64) or 1
                self._write()
        except OSError as error:
            raise StartError(
                f"The file {FILE_NAME} of the data directory cannot be used: {error.strerror}."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StartError(
                f"The file {FILE_NAME} of the data directory is damaged: restore it from a backup,"
                " or remove it to make this a node with a new id."
            ) from None

    def raise_epoch(self, epoch: Epoch) -> None:
        """Keep a higher epoch; it is on the disk on return.

        :raise OSError: it could not be kept, and must not be used.
        """
        if epoch > self.epoch:
            before, self.epoch = self.epoch, epoch
            try:
                self._write()
            except OSError:
                self.epoch = before
                raise

    def _read(self) -> None:
        with self._files.open_read(FILE_NAME) as file:
            kept = json.loads(file.read())
        if kept.pop("check") != _check(kept):
            raise ValueError("it does not match its checksum")
        self.node_id = int(kept["node_id"], 16)
        self.epoch = Epoch(int(kept["epoch"]), int(kept["epoch_node"], 16))

    def _write(self) -> None:
        kept = {
            "node_id": f"{self.node_id:016x}",
            "epoch": self.epoch.number,
            "epoch_node": f"{self.epoch.node:016x}",
        }
        text = json.dumps({**kept, "check": _check(kept)}, indent=1)
        replace_durably(self._files, FILE_NAME, text.encode() + b"\n")


def _check(kept: dict[str, object]) -> str:
    """A checksum of all fields but its own."""
    return f"{zlib.crc32(json.dumps(kept, sort_keys=True).encode()):08x}"
