"""Who a node is, and what it has promised: kept in its data directory.

The id is random and made once; addresses are only ways to reach a node. The epoch is on the
disk before it is used or told to anybody, and never goes back. Beside them stands what its set
must know after a restart:

- the set that it knows to be formed, and the one it has left on an operator's word;
- whether its log is *doubtful*: it may lack the end of what this node has acknowledged. That is
  so after a restart of the machine that nobody prepared, where the log is not flushed before
  it answers, after a repair of the log, and where the log ends before the index it is known to
  have reached (it was lost, or an older one was put in its place). Such a node does not count until
  its primary has given it all;
- that index, as of the last epoch and the last stop in order.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import zlib
from dataclasses import dataclass

from nuntwist.errors import StartError
from nuntwist.files import Files, replace_durably
from nuntwist.values import NO_EPOCH, Epoch

FILE_NAME = "node.json"
_ID = re.compile("[0-9a-f]{1,16}")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is kept beside the id and the epoch.

    :ivar formed: the set that is known to be formed; 0 for none.
    :ivar left: the set that it was taken out of; 0 for none.
    :ivar doubtful: whether the log may lack its end.
    :ivar boot: of the machine when the node was started last; empty where that is not known.
    :ivar clean: whether it was stopped in order since.
    :ivar reached: an index up to which its log was durable once, and has not been cut since.
    """

    formed: int = 0
    left: int = 0
    doubtful: bool = False
    boot: str = ""
    clean: bool = True
    reached: int = 0


class Identity:
    """The identity of a node.

    :param files: its data directory.
    :param chance: for a new id.
    :raise StartError: it cannot be read or written.
    :ivar node_id: 64 random bits.
    :ivar epoch: the highest seen.
    :ivar standing: see there.
    """

    def __init__(self, files: Files, chance: random.Random) -> None:
        self._files = files
        self._chance = chance
        self.epoch = NO_EPOCH
        self.standing = Standing()
        try:
            if FILE_NAME in files.names():
                self._read()
            else:
                self.node_id = self.new_id()
                self._write()
        except OSError as error:
            raise StartError(
                f"The file {FILE_NAME} of the data directory cannot be used: {error.strerror}."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise StartError(
                f"The file {FILE_NAME} of the data directory is damaged: restore it from a backup,"
                " or remove it to make this a node with a new id."
            ) from None

    def new_id(self) -> int:
        """64 random bits, not all 0."""
        return self._chance.getrandbits(64) or 1

    def raise_epoch(self, epoch: Epoch, reached: int = 0) -> None:
        """Keep a higher epoch; it is on the disk on return.

        :param reached: up to where the log is durable; 0 where that is not known.
        :raise OSError: it could not be kept, and must not be used.
        """
        if epoch > self.epoch:
            before, self.epoch = (self.epoch, self.standing), epoch
            if reached:
                self.standing = dataclasses.replace(self.standing, reached=reached)
            try:
                self._write()
            except OSError:
                self.epoch, self.standing = before
                raise

    def note(self, **changes: int | bool | str) -> None:
        """Keep changes of ``standing``; they are on the disk on return.

        :raise OSError: they could not be kept.
        """
        before = self.standing
        self.standing = dataclasses.replace(before, **changes)  # type: ignore[arg-type]  # by name
        if self.standing != before:
            try:
                self._write()
            except OSError:
                self.standing = before
                raise

    def note_start(self, boot: str, flushed: bool) -> None:
        """The node begins to run.

        :param boot: of the machine; empty where that is not known.
        :param flushed: whether the log is on the disk before it answers.
        :raise OSError: it could not be kept.
        """
        standing = self.standing
        lost = not standing.clean and bool(boot) and boot != standing.boot and not flushed
        self.note(boot=boot, clean=False, doubtful=standing.doubtful or lost)

    def _read(self) -> None:
        with self._files.open_read(FILE_NAME) as file:
            kept = json.loads(file.read())
        if kept.pop("check") != _check(kept):
            raise ValueError("it does not match its checksum")
        self.node_id = _id(kept["node_id"])
        self.epoch = Epoch(_number(kept["epoch"]), _id(kept["epoch_node"]))
        self.standing = Standing(
            _id(kept.get("formed", "0")),
            _id(kept.get("left", "0")),
            bool(kept.get("doubtful", False)),
            str(kept.get("boot", "")),
            bool(kept.get("clean", True)),
            _number(kept.get("reached", 0)),
        )
        if not self.node_id:
            raise ValueError("0 is no node")

    def _write(self) -> None:
        standing = self.standing
        kept = {
            "node_id": f"{self.node_id:016x}",
            "epoch": self.epoch.number,
            "epoch_node": f"{self.epoch.node:016x}",
            "formed": f"{standing.formed:016x}",
            "left": f"{standing.left:016x}",
            "doubtful": standing.doubtful,
            "boot": standing.boot,
            "clean": standing.clean,
            "reached": standing.reached,
        }
        text = json.dumps({**kept, "check": _check(kept)}, indent=1)
        replace_durably(self._files, FILE_NAME, text.encode() + b"\n")


def _id(text: str) -> int:
    """``int`` alone would take more than is ever written."""
    if not _ID.fullmatch(text):
        raise ValueError("it has something else where an id must be")
    return int(text, 16)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("it has something else where a number must be")
    return value


def _check(kept: dict[str, object]) -> str:
    """A checksum of all fields but its own."""
    return f"{zlib.crc32(json.dumps(kept, sort_keys=True).encode()):08x}"
