"""All targets. Each has seeds in ``tests/fuzz/seeds/NAME``; see docs/testing.md."""

from __future__ import annotations

from typing import Final

from tests.fuzz import archive, cluster, language, oplog, repairs, signing, storage, texts, wire
from tests.fuzz.target import Target

_ROWS: Final = (
    # What clients send.
    Target("tcp", "lines over TCP, to a whole node", wire.tcp, None, 40, 1 << 13),
    Target("admin", "commands of an admin, to a whole node", oplog.admin, None, 60, 1 << 12),
    Target("websocket", "frames over WebSocket, to a whole node", wire.frames, None, 40, 1 << 13),
    Target("upgrade", "the request for an upgrade", wire.handshake, None, 40, 1 << 15),
    Target("http", "HTTP requests, to a whole node", wire.http, None, 40, 1 << 15),
    Target("small-frames", "small WebSocket frames, in bulk", wire.small_frames),
    Target("host", "the header Host", wire.host),
    Target("lines", "framing of lines", language.lines),
    Target("split", "commands between semicolons", language.split),
    Target("command", "one command", language.command),
    Target("number", "a number in a command", language.number),
    Target("concern", "a write concern", language.concern),
    Target("permissions", "a list of permissions", language.permissions),
    Target("token", "signed tokens", signing.token),
    Target("signing-keys", "keys of signed tokens, as JSON or in PEM", signing.keys, None, 100),
    # What other nodes send.
    Target("link", "a connection of another node", cluster.link, cluster.link_repair, 80, 1 << 16),
    Target("peer-frames", "frames between nodes", cluster.frames, repairs.peer_frames),
    Target("copy-piece", "a piece of a copy of all", cluster.copy_piece),
    Target("records", "records of the log from a node", cluster.records, repairs.records),
    Target("outcomes", "replies to forwarded commands", language.outcomes),
    Target("members", "the members of a set", cluster.members),
    Target("marker", "the marker of a forwarded request", texts.marker),
    # What is on the disk, or in S3.
    Target("segment", "a segment of the log", oplog.segment, repairs.segment, 150),
    Target("start", "a start from a log", oplog.start, repairs.segment, 40, 1 << 14),
    Target("replay", "what a log says, as lines", oplog.replay, None, 60, 1 << 13),
    Target("oplog-base", "the file oplog.base", oplog.base, repairs.base),
    Target("divergent", "names of divergent files", cluster.divergent),
    Target("identity", "the file node.json", cluster.identity, repairs.identity),
    Target("partition", "a partition file", storage.partition, repairs.snapshot),
    Target("manifest", "a manifest", storage.manifest, repairs.manifest),
    Target("snapshot", "a snapshot on the disk", storage.files, repairs.snapshot_files),
    Target("s3-keys", "keys of a bucket", storage.keys),
    Target("secret", "a stored secret", texts.secret),
    # What an operator brings.
    Target("archive", "an archive", archive.archive, repairs.archive),
    Target("restore", "a restore into a node", archive.restore, repairs.archive, 30, 1 << 13),
    Target("entries", "what an archive says, as lines", archive.entries, None, 30, 1 << 13),
    Target("json-lines", "entries as lines of JSON", archive.lines),
    Target("nundb", "files of NunDB", archive.files),
    Target("address", "addresses", texts.address),
    Target("setting", "settings", texts.setting),
    Target("answer", "answers to the command line", texts.answer),
)

TARGETS: Final = {target.name: target for target in _ROWS}
