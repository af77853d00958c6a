"""cluster-state, metrics-state, debug, list-commands, help, ping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from nuntwist.core.handlers import overview, replicas
from nuntwist.core.handlers.common import selected, when_durable
from nuntwist.errors import CommandError
from nuntwist.language.commands import BY_WORD
from nuntwist.language.docs import help_message
from nuntwist.language.parser import shorten
from nuntwist.language.replies import NO_DATABASE, OK, Reply

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node


def cluster_state(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """The members of the set; of a node alone, itself."""
    (form,) = arguments
    if form not in (b"", b"json"):
        raise CommandError(b"cluster-state takes json, or nothing: " + shorten(form))
    return replicas.as_json(node) if form else replicas.as_text(node)


def metrics_state(node: Node, client: Client, arguments: tuple[()]) -> Reply:
    """Counters, in the form NunDB's exporter reads."""
    oplog, replica_set = node.oplog, node.replica_set
    pending = 0 if replica_set is None else replica_set.pending_count()
    replication_time = 0.0 if replica_set is None else replica_set.replication_time()
    text = (
        f"metrics-state pending_ops: {pending}, op_log_file_size: {oplog.size},"
        f" op_log_count: {oplog.count},replication_time_moving_avg: {replication_time:.1f},"
        f" get_query_time_moving_avg: {node.counters.command_time:.1f}\n\n"
    )
    return Reply((text.encode(),))


def oplog_state(node: Node, client: Client, arguments: tuple[()]) -> Reply:
    """What the log holds, and whether it takes writes."""
    oplog, journal = node.oplog, node.pipeline.journal
    writes = "failing" if journal.in_trouble else "taken"
    if journal.refusal is not None or oplog.failed is not None:
        writes = "refused"
    last = oplog.last
    pending = 0 if node.replica_set is None else node.replica_set.pending_count()
    text = (
        # Early exporters send this command and take the first number as pending operations.
        f"oplog-state pending_ops: {pending}, segments: {oplog.segments}, bytes: {oplog.size},"
        f" count: {oplog.count},"
        f" first: {oplog.first}, last: {last.index}, epoch: {last.epoch.number},"
        f" covered: {max(0, node.snapshots.covered())},"
        f" writes: {writes}\n"
    )
    return Reply((text.encode(),))


def oplog_clean(node: Node, client: Client, arguments: tuple[int]) -> Deferred[Reply]:
    """Drop what snapshots cover."""
    (keep,) = arguments
    if keep < 0:
        raise CommandError(b"oplog-clean takes a number of bytes, 0 or more")
    freed = node.pipeline.journal.forget(node.snapshots.covered(), keep)
    return freed.addCallback(lambda size: Reply((b"oplog-clean %d bytes\n" % size,)))


def list_commands(node: Node, client: Client, arguments: tuple[()]) -> Reply:
    """The words of all commands."""
    return Reply((b"commands-list " + b"".join(b"," + word for word in BY_WORD) + b"\n",))


def help_(node: Node, client: Client, arguments: tuple[bytes]) -> Reply:
    """What a command does, or all of them."""
    (word,) = arguments
    message = help_message(word)
    if message is None:
        raise CommandError(b"unknown command: " + shorten(word))
    return Reply((message,))


def ping(node: Node, client: Client, arguments: tuple[()]) -> Reply:
    """Answer."""
    return Reply((b"pong\n",))


def debug(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Outcome:
    """One of several looks inside."""
    word, form = arguments
    look = _LOOKS.get(word)
    if look is None:
        raise CommandError(b"unknown debug command: " + shorten(word))
    if form == b"json":
        if look is _list_dbs:
            return overview.describe_all(node)
        raise CommandError(b"no JSON for: " + shorten(word))
    return look(node, client)


def _pending_ops(node: Node, client: Client) -> Reply:
    lines = () if node.replica_set is None else node.replica_set.pending()
    return Reply((b"pending-ops \n" + b"".join(line.encode() + b"\n" for line in lines),))


def _elections(node: Node, client: Client) -> Reply:
    lines = () if node.replica_set is None else node.replica_set.elections()
    return Reply((b"elections \n" + b"".join(line.encode() + b"\n" for line in lines),))


def _pending_conflicts(node: Node, client: Client) -> Outcome:
    if client.database is None:
        return NO_DATABASE
    database = selected(client)
    pending = sorted(key for keys in database.conflicts.values() for key in keys)
    reply = Reply((b"conflitcts-list " + b"".join(b"," + key for key in pending) + b"\n",))
    return when_durable(node, database, reply)


def _list_dbs(node: Node, client: Client) -> Reply:
    rows = [
        b"%b : %b\n" % (name, database.strategy)
        for name, database in sorted(node.catalogue.by_name.items())
    ]
    return Reply((b"dbs-list \n" + b"".join(rows),))


def _force_election(node: Node, client: Client) -> Reply:
    node.stand_again()
    return OK


def _process_info(node: Node, client: Client) -> Reply:
    return Reply((b"process-info \nprocess_id: %d\n" % node.info.process_id,))


_LOOKS = {
    b"pending-ops": _pending_ops,
    b"elections": _elections,
    b"pendding-conflitcts": _pending_conflicts,
    b"pending-conflicts": _pending_conflicts,
    b"list-dbs": _list_dbs,
    b"force-election": _force_election,
    b"process-info": _process_info,
}
