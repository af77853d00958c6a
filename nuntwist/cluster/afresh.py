"""What a start does first where a copy of all was being put in place when the process ended.

The marker says so (:mod:`nuntwist.core.installing`). What is on the disk then are parts of two
states, so nothing of it is used. That is not what this node has acknowledged, so before the log
goes the node is noted as *doubtful*: it has no vote, and nothing of it counts, until its primary
has given it all. The marker goes last: whatever ends the process here, the next start does it
again.
"""

from __future__ import annotations

from nuntwist.cluster.identity import Identity
from nuntwist.core.installing import MARKER
from nuntwist.errors import StartError
from nuntwist.files import Files
from nuntwist.oplog import base, unflushed
from nuntwist.oplog.segment import remove_segments


def take_log_away(files: Files, identity: Identity) -> bool:
    """Before the log is opened, take it away where the marker is there.

    :return: whether it was; then :func:`nuntwist.core.installing.begin_afresh` is called in place
        of a recovery.
    :raise StartError: it could not be done.
    """
    names = files.names()
    if MARKER not in names:
        return False
    try:
        identity.note(doubtful=True)
        remove_segments(files)
        for name in (base.NAME, unflushed.NAME):
            if name in names:
                files.remove(name)
    except OSError as error:
        raise StartError(
            f"What an unfinished copy has left cannot be removed: {error.strerror}."
        ) from None
    return True
