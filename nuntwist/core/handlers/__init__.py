"""What each command does, one function a word; ``HANDLERS`` binds them to the table.

A handler takes the node, the client and the parsed arguments. It gives a Reply, or a Deferred
that fires with one (only commands that stand alone, see ``stands_alone`` in the table), or a
Listing; it raises CommandError where it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nuntwist.core.handlers import (
    arbitration,
    archives,
    cluster,
    concerns,
    databases,
    operate,
    reading,
    signing,
    users,
    watching,
    writing,
)

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.deciding import Outcome
    from nuntwist.core.node import Node

HANDLERS: dict[str, Callable[[Node, Client, Any], Outcome]] = {
    "auth": users.auth,
    "use-db": databases.use_db,
    "create-db": databases.create_db,
    "drop-db": databases.drop_db,
    "set-signing-keys": signing.set_signing_keys,
    "get-signing-keys": signing.get_signing_keys,
    "get": reading.get,
    "get-safe": reading.get_safe,
    "set": writing.set_key,
    "set-safe": writing.set_safe,
    "increment": writing.increment,
    "remove": writing.remove,
    "keys": reading.keys,
    "watch": watching.watch,
    "unwatch": watching.unwatch,
    "unwatch-all": watching.unwatch_all,
    "arbiter": arbitration.arbiter,
    "resolve": arbitration.resolve,
    "create-user": users.create_user,
    "set-permissions": users.set_permissions,
    "drop-user": users.drop_user,
    "list-users": users.list_users,
    "get-permissions": users.get_permissions,
    "set-token": users.set_token,
    "snapshot": databases.snapshot,
    "cluster-state": operate.cluster_state,
    "metrics-state": operate.metrics_state,
    "oplog-state": operate.oplog_state,
    "oplog-clean": operate.oplog_clean,
    "debug": operate.debug,
    "backup-begin": archives.backup_begin,
    "backup-read": archives.backup_read,
    "backup-drop": archives.backup_drop,
    "restore-begin": archives.restore_begin,
    "restore-write": archives.restore_write,
    "restore-commit": archives.restore_commit,
    "restore-drop": archives.restore_drop,
    "list-commands": operate.list_commands,
    "help": operate.help_,
    "ping": operate.ping,
    "write-concern": concerns.write_concern,
    "set-write-concern": concerns.set_write_concern,
    "read-concern": concerns.read_concern,
    "join": cluster.join,
    "leave": cluster.leave,
    "replicate-join": cluster.accept,
    "replicate-leave": cluster.accept,
    "set-primary": cluster.stand,
    "set-secoundary": cluster.step_down,
    "election": cluster.election,
    "replicate-since": cluster.accept,
    "ack": cluster.accept,
    "rp": cluster.rp,
    "replicate": cluster.replicate,
    "replicate-remove": cluster.replicate_remove,
    "replicate-increment": cluster.replicate_increment,
    "replicate-snapshot": cluster.replicate_snapshot,
}
