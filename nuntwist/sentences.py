"""What an operator reads where a node starts, or cannot: in plain words, with what to do."""

from __future__ import annotations

import os
from typing import Any

from OpenSSL.crypto import Error as CertificateError
from OpenSSL.SSL import Error as SSLError
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IListeningPort

from nuntwist.errors import CorruptData, StartError


def where(port: IListeningPort) -> str:
    """The address a port listens on, for the log."""
    address: Any = port.getHost()
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    if not hasattr(address, "port"):
        return str(address)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def plainly(reason: object) -> str:
    """Why something failed, for somebody who does not know the code: no numbers of errors, no
    names of functions."""
    if isinstance(reason, SSLError | CertificateError):
        return "its key or certificate cannot be used"
    if isinstance(reason, LookupError):
        return "the system handed over no such socket"
    if isinstance(reason, TypeError | AttributeError):
        return "it has an argument that this type of endpoint does not take, or lacks one"
    text = getattr(reason, "strerror", None) or str(reason)
    if text.startswith("invalid literal for int()"):
        return f"{text.rpartition(': ')[2]} is not a number"
    return text[:1].lower() + text[1:]


def damaged(error: CorruptData, where: str, from_log: bool) -> StartError:
    """What to do about a damaged file, or object.

    :param from_log: whether it is a snapshot, and can be made anew from the log.
    """
    if error.path.startswith("s3://"):
        return StartError(
            f"{error}; nothing was changed: restore an earlier version of the object, or read from"
            " a good copy with NUN_S3_READ_PREFIX."
        )
    if error.path.startswith("oplog-"):
        return StartError(
            f"{error}; nothing was changed: `nun-db oplog verify` tells more, `nun-db oplog repair`"
            f" cuts the log there and keeps what it cuts; or restore {where} from a backup."
        )
    way = "move it away to start with nothing"
    if from_log:
        way = "move all its database-* files away: then all is read from the log"
    return StartError(f"{error}; nothing was changed: restore {where} from a backup, or {way}.")


def counted(count: int, singular: str) -> str:
    """``1 key``, ``2,000 keys``."""
    return f"{count:,} {singular}{'' if count == 1 else 's'}"
