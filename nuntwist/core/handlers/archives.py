"""backup-begin, backup-read, backup-drop, restore-begin, restore-write, restore-commit,
restore-drop."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nuntwist.core.backup import Backup
from nuntwist.core.handlers.common import all_named, names_in
from nuntwist.core.restore import MODES, Restore
from nuntwist.errors import CommandError, StorageUnavailable
from nuntwist.language.parser import shorten
from nuntwist.language.replies import OK, Reply

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node


def backup_begin(node: Node, client: Client, arguments: tuple[bytes]) -> Deferred[Reply]:
    """Look at databases as they are now; all where none is named."""
    (names,) = arguments
    node.backups.check_room()
    by_name = node.catalogue.by_name
    databases = all_named(node, names) or [by_name[name] for name in sorted(by_name)]
    journal = node.pipeline.journal
    backup = Backup(node.catalogue, journal, list(dict.fromkeys(databases)), node.wall())

    def ready(_: object) -> Reply:
        number = node.backups.add(backup)
        return Reply((b"backup %d %d\n" % (number, backup.entries),))

    def failed(reason: Failure) -> Reply:
        backup.close()
        reason.trap(StorageUnavailable)
        raise CommandError(b"storage unavailable: the log failed")

    return backup.ready().addCallbacks(ready, failed)


def backup_read(node: Node, client: Client, arguments: tuple[int]) -> Reply:
    """Give the next piece."""
    (number,) = arguments
    piece = node.backups.find(number).read()
    if piece:
        return Reply((b"backup-data " + binascii.b2a_base64(piece),))
    node.backups.drop(number)
    return Reply((b"backup-end\n",))


def backup_drop(node: Node, client: Client, arguments: tuple[int]) -> Reply:
    """Give one up."""
    node.backups.drop(arguments[0])
    return OK


def restore_begin(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Reply:
    """Begin to take databases in."""
    mode, names = arguments
    if mode not in MODES:
        raise CommandError(b"restore-begin takes new, force or merge: " + shorten(mode))
    node.restores.check_room()
    number = node.restores.add(Restore(node, mode, names_in(names)))
    return Reply((b"restore %d\n" % number,))


def restore_write(node: Node, client: Client, arguments: tuple[int, bytes]) -> Deferred[Reply]:
    """Take the next piece; where it fails, the whole is given up."""
    number, text = arguments
    restore = node.restores.find(number)
    try:
        piece = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise CommandError(b"restore-write takes base64") from None
    written = restore.write(piece)
    written.addErrback(_give_up, node, number)
    return written.addCallback(lambda _: OK)


def restore_commit(node: Node, client: Client, arguments: tuple[int]) -> Deferred[Reply]:
    """Let what was taken in appear."""
    (number,) = arguments

    def done(counts: tuple[int, int]) -> Reply:
        node.restores.drop(number)
        return Reply((b"restored %d %d\n" % counts,))

    committed: Deferred[Any] = node.restores.find(number).commit()
    committed.addErrback(_give_up, node, number)
    answered: Deferred[Reply] = committed.addCallback(done)
    return answered


def restore_drop(node: Node, client: Client, arguments: tuple[int]) -> Reply:
    """Give one up."""
    node.restores.drop(arguments[0])
    return OK


def _give_up(reason: Failure, node: Node, number: int) -> None:
    node.restores.drop(number)
    if reason.check(StorageUnavailable):
        raise CommandError(b"storage unavailable: the log failed")
    reason.raiseException()
