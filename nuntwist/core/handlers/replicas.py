"""What ``cluster-state`` shows: as NunDB's clients read it, and all there is to know as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Final

from nuntwist.core.replica_set import ReplicaView, SetView
from nuntwist.language.replies import Reply

if TYPE_CHECKING:
    from nuntwist.core.node import Node


_COUNTED: Final = (
    *("tails_cut", "operations_undone", "offered_made", "offered_left"),
    *("copies_taken", "told_by_copies", "states_differed", "stamps_ahead"),
    *("watches_taken", "signed_out", "failed_logins", "delayed_logins", "refused_connections"),
    *(
        "watchers_closed",
        "watches_closed",
        "unfinished_closed",
        "conflicts_settled",
        "conflicts_moved",
    ),
    *("conflicts_undecided", "tokens_expired", "quota_refusals"),
    *("late_handshakes", "late_commands", "idle_closed", "cut_off", "slowed"),
    *("proxies_refused", "pages_refused", "nodes_refused", "failed_handshakes"),
)
"""The counters that are shown."""


def as_text(node: Node) -> Reply:
    """``cluster-state  M, M,``, each member as ``ADDRESS(how it is reached):ROLE``."""
    members = "".join(f" {_as_text(replica)}," for replica in _view(node).replicas)
    return Reply((f"cluster-state {members}\n".encode(),))


def as_json(node: Node) -> Reply:
    """One JSON object, the times in milliseconds; ``counters`` are those of this node since it was
    started."""
    view = dataclasses.asdict(_view(node))
    view["counters"] = {name: getattr(node.counters, name) for name in _COUNTED}
    for replica in view["replicas"]:
        index, epoch = replica.pop("index"), replica.pop("epoch")
        replica["position"] = None if index is None else {"epoch": epoch, "index": index}
        replica["index"] = index
        heard = replica.pop("heard")
        replica["last_heartbeat_ms"] = None if heard is None else round(heard * 1000.0)
        replica["role"] = "Secondary" if replica["role"] == "Secoundary" else replica["role"]
    return Reply((b"cluster-state-json " + json.dumps(view).encode() + b"\n",))


def _as_text(replica: ReplicaView) -> str:
    if replica.is_self:
        return f"{replica.address}(self):{replica.role} "
    reached = "Connected" if replica.connected else "Disconnected"
    return f"{replica.address}({reached}):{replica.role}"


def _view(node: Node) -> SetView:
    if node.replica_set is not None:
        return node.replica_set.view()
    journal, last = node.pipeline.journal, node.oplog.last.index
    info = node.info
    alone = ReplicaView(info.address, info.role, True, True, True, last, journal.revealed)
    return SetView(
        "0" * 16,
        False,
        journal.epoch.number,
        info.address if info.role == "Primary" else None,
        "alone",
        journal.revealed,
        last,
        None,
        (alone,),
    )
