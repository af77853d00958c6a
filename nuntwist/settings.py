"""The table of settings: for each its field, variable, option, default, meaning and reader.

The options of ``twistd nundb`` and the page docs/configuration.md follow this table;
:mod:`nuntwist.config` turns it into a NodeConfig.  A reader takes the text that an operator
wrote and gives the value, or raises ValueError with the second half of a sentence.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nuntwist.addresses import parse_listeners, parse_peer

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

LEVELS = ("debug", "info", "warn", "error", "critical")
_LEVEL_NAMES = {name: name for name in LEVELS} | {
    "trace": "debug",
    "warning": "warn",
    "err": "error",
    "fatal": "critical",
    "off": "critical",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    :ivar field: the name in NodeConfig.
    :ivar variable: the environment variable.
    :ivar option: the long option without dashes; None where there is the variable only.
    :ivar short: its one-letter form, if any.
    :ivar default: the default, as an operator would write it.
    :ivar help: what it is for, in a few words.
    :ivar read: turns the text into the value; raises ValueError with the reason.
    :ivar in_effect: False for what is kept for later releases and changes nothing yet.
    """

    field: str
    variable: str
    option: str | None
    short: str | None
    default: str
    help: str
    read: Callable[[str], Any]
    in_effect: bool = True


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return int(text)

    return read


_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}


def _size(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,18}) ?(?:([KMGkmg])(?:i?[Bb])?)?", text)
        size = int(match[1]) * _UNITS[(match[2] or "").upper()] if match else -1
        if not low <= size <= high:
            raise ValueError(f"it must be a size from {low} to {high} bytes, as 65536 or 64KiB")
        return size

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError("it must be a number of seconds above 0")
    return seconds


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it must be {' or '.join(words)}")
        return text.lower()

    return read


def _kind(text: str) -> str:
    name = text.lower()
    if not re.fullmatch("[a-z][a-z0-9_-]*", name):
        raise ValueError("it must be disk, s3, or the name of a storage that a plugin adds")
    return name


def _election(text: str) -> str:
    name = text.lower()
    if not re.fullmatch("[a-z][a-z0-9_-]*", name):
        raise ValueError("it must be bully, fixed, or the name of an election that a plugin adds")
    return name


def _concern(text: str) -> str:
    if text.lower() in ("primary", "majority"):
        return text.lower()
    if not re.fullmatch("[0-9]{1,2}", text) or not 0 < int(text) <= 31:
        raise ValueError("it must be primary, majority, or a number of replicas from 1 to 31")
    return text


def _level(text: str) -> str:
    name = _LEVEL_NAMES.get(text.lower())
    if name is None:
        raise ValueError(f"it must be one of {', '.join(LEVELS)}")
    return name


def _members(text: str) -> tuple[str, ...]:
    parts = re.split(r"(?<!\\),", text)
    return tuple(parse_peer(part) for part in parts if part.strip())


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    for origin in origins:
        if origin != "null" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#*]+", origin):
            raise ValueError(
                "it must be a comma list of origins such as https://www.example.com, with the port"
                " if it is not the usual one, or null"
            )
    return origins


def _networks(text: str) -> tuple[str, ...]:
    networks = []
    for part in text.split(","):
        name = part.strip()
        if not name:
            continue
        try:
            networks.append(name if name == "unix" else str(ipaddress.ip_network(name)))
        except ValueError:
            raise ValueError(
                "it must be a comma list of addresses and networks such as 10.0.0.7 and"
                " 10.1.0.0/16, or unix"
            ) from None
    return tuple(networks)


def _bucket(text: str) -> str:
    if not re.fullmatch(r"arn:\S+|[A-Za-z0-9][A-Za-z0-9._-]{1,254}", text):
        raise ValueError("it must be the name of a bucket, without s3:// and without a path")
    return text


def _prefix(text: str) -> str:
    if text.startswith("s3:") or not text.isprintable():
        raise ValueError("it must be the beginning of keys, as nodes/one")
    return text.strip("/")


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#][^\s?#]*", text):
        raise ValueError("it must be an address such as https://s3.example.com")
    return text


_PORTS = "host:port or an endpoint such as unix:/run/nun.sock; comma list; off"

SETTINGS: tuple[Setting, ...] = (
    Setting("user", "NUN_USER", "user", "u", "nun", "Name of the admin", str),
    Setting("password", "NUN_PWD", "pwd", "p", "nun-pwd", "Password of the admin", str),
    Setting("dbs_dir", "NUN_DBS_DIR", "dbs-dir", None, "dbs", "Data directory", str),
    Setting(
        "websocket_endpoints", "NUN_WS_ADDR", "ws-address", "w", "0.0.0.0:3012",
        f"Where to listen for WebSocket: {_PORTS}", parse_listeners,
    ),
    Setting(
        "http_endpoints", "NUN_HTTP_ADDR", "http-address", "h", "0.0.0.0:3013",
        "Where to listen for HTTP, written the same way", parse_listeners,
    ),
    Setting(
        "tcp_endpoints", "NUN_TCP_ADDR", "tcp-address", "t", "0.0.0.0:3014",
        "Where to listen for the line protocol, written the same way", parse_listeners,
    ),
    Setting(
        "replicate_addresses", "NUN_REPLICATE_ADDR", "replicate-address", "r", "",
        "TCP addresses of the members of the replica set, a comma list", _members,
    ),
    Setting(
        "cluster_secret", "NUN_CLUSTER_SECRET", None, None, "",
        "What the members of a set prove to each other (default: the credentials)", str,
    ),
    Setting(
        "peer_ca", "NUN_PEER_CA", None, None, "",
        "Certificates of who signs those that other nodes have to show, a file or directory", str,
    ),
    Setting(
        "external_address", "NUN_EXTERNAL_ADDR", "external-address", "e", "",
        "The host:port under which others reach this node (default: its TCP address)",
        parse_peer,
    ),
    Setting(
        "log_level", "NUN_LOG_LEVEL", "log-level", "l", "info",
        f"Lowest level that is logged: {', '.join(LEVELS)}", _level,
    ),
    Setting(
        "log_format", "NUN_LOG_FORMAT", "log-format", None, "text",
        "text: a readable line an event; json: a JSON object a line", _one_of("text", "json"),
    ),
    Setting(
        "audit_file", "NUN_AUDIT_FILE", None, None, "",
        "File for who has logged in and what admins did, a JSON object a line (default: none)", str,
    ),
    Setting(
        "declutter_seconds", "NUN_DECLUTTER_INTERVAL", "declutter-interval", None, "300",
        "Seconds between two snapshots of changed databases", _seconds,
    ),
    Setting(
        "max_line", "NUN_MAX_LINE", "max-line", None, "1MiB",
        "Longest command, line or WebSocket message", _size(64, GIB),
    ),
    Setting(
        "max_body", "NUN_MAX_BODY", "max-body", None, "8MiB",
        "Longest HTTP request body", _size(64, GIB),
    ),
    Setting(
        "max_key", "NUN_MAX_KEY_LENGTH", None, None, "4KiB",
        "Longest key that is set or watched", _size(16, GIB),
    ),
    Setting(
        "max_value", "NUN_MAX_VALUE_LENGTH", None, None, "0",
        "Longest value that is set; 0 for whatever a command holds", _size(0, GIB),
    ),
    Setting(
        "max_watches", "NUN_MAX_WATCHES", None, None, "100000",
        "How many keys one connection may watch", _whole(0, 1_000_000_000),
    ),
    Setting(
        "watch_total", "NUN_WATCH_TOTAL", None, None, "256MiB",
        "Bytes of the watches of all connections at which those with most are closed",
        _size(KIB, 1024 * GIB),
    ),
    Setting(
        "max_databases", "NUN_MAX_DATABASES", None, None, "0",
        "How many databases there may be; 0 for any number", _whole(0, 1_000_000_000),
    ),
    Setting(
        "max_keys", "NUN_MAX_KEYS", None, None, "0",
        "How many keys one database may hold; 0 for any number", _whole(0, 10**15),
    ),
    Setting(
        "max_database_size", "NUN_MAX_DATABASE_SIZE", None, None, "0",
        "Bytes of keys and values one database may hold; 0 for any number",
        _size(0, 1 << 50),
    ),
    Setting(
        "output_high_water", "NUN_OUTPUT_HIGH_WATER", "output-high-water", None, "256KiB",
        "Unsent bytes at which a connection is no longer read", _size(KIB, GIB),
    ),
    Setting(
        "output_limit", "NUN_OUTPUT_LIMIT", "output-limit", None, "16MiB",
        "Unsent bytes at which a connection is closed", _size(KIB, 16 * GIB),
    ),
    Setting(
        "output_total", "NUN_OUTPUT_TOTAL", None, None, "256MiB",
        "Unsent bytes of all connections at which those with most are closed",
        _size(KIB, 1024 * GIB),
    ),
    Setting(
        "input_total", "NUN_INPUT_TOTAL", None, None, "128MiB",
        "Bytes of unfinished commands of all connections at which those with most are closed",
        _size(KIB, 1024 * GIB),
    ),
    Setting(
        "max_connections", "NUN_MAX_CONNECTIONS", "max-connections", None, "20000",
        "How many clients may be connected, over all transports", _whole(1, 10_000_000),
    ),
    Setting(
        "max_connections_of_one", "NUN_MAX_CONNECTIONS_PER_ADDRESS", None, None, "0",
        "How many of them from one address; 0 for any number", _whole(0, 10_000_000),
    ),
    Setting(
        "handshake_seconds", "NUN_HANDSHAKE_TIMEOUT", None, None, "10",
        "Seconds for a handshake, or the head of an HTTP request; 0 for any time",
        _whole(0, 1_000_000),
    ),
    Setting(
        "command_seconds", "NUN_COMMAND_TIMEOUT", None, None, "60",
        "Seconds for a command, message or body that has begun; 0 for any time",
        _whole(0, 1_000_000),
    ),
    Setting(
        "idle_seconds", "NUN_IDLE_TIMEOUT", None, None, "0",
        "Seconds a client may be silent; 0 for ever", _whole(0, 1_000_000),
    ),
    Setting(
        "command_rate", "NUN_COMMAND_RATE", None, None, "0",
        "Commands a second of one connection; beyond it is read later; 0 for any number",
        _whole(0, 10_000_000),
    ),
    Setting(
        "failed_logins", "NUN_FAILED_LOGINS", None, None, "10",
        "Failed logins after which those of an address have to wait; 0 for never",
        _whole(0, 1_000_000),
    ),
    Setting(
        "token_warning", "NUN_TOKEN_WARNING", None, None, "60",
        "Seconds before the end of a signed token at which that is announced", _whole(1, 86_400),
    ),
    Setting(
        "trusted_proxies", "NUN_TRUSTED_PROXIES", None, None, "",
        "Addresses and networks of proxies that are believed who a client is, a comma list",
        _networks,
    ),
    Setting(
        "allowed_origins", "NUN_ALLOWED_ORIGINS", None, None, "",
        "Origins of pages that may connect or send commands, a comma list (default: any)", _origins,
    ),
    Setting(
        "conflict_seconds", "NUN_CONFLICT_TIMEOUT", None, None, "0",
        "Seconds after which a conflict nobody decides goes to the newest change; 0 for never",
        _whole(0, 1_000_000_000),
    ),
    Setting(
        "arbiter_seconds", "NUN_ARBITER_TIMEOUT", None, None, "30",
        "Seconds an arbiter has for a conflict before another one gets it; 0 for any time",
        _whole(0, 1_000_000_000),
    ),
    Setting(
        "arbiter_window", "NUN_ARBITER_WINDOW", None, None, "500",
        "Conflicts an arbiter may have been sent and not decided", _whole(1, 1_000_000),
    ),
    Setting(
        "resolved_seconds", "NUN_RESOLVED_KEPT", None, None, "86400",
        "Seconds after which decided conflicts are removed; 0 for never", _whole(0, 1_000_000_000),
    ),
    Setting(
        "election_timeout_ms", "NUN_ELECTION_TIMEOUT", "election-timeout", None, "1000",
        "Longest round of an election, and wait of a first node, in milliseconds",
        _whole(10, 3_600_000),
    ),
    Setting(
        "heartbeat_ms", "NUN_HEARTBEAT_INTERVAL", None, None, "100",
        "Time between two heartbeats of members, in milliseconds", _whole(5, 600_000),
    ),
    Setting(
        "suspicion_ms", "NUN_SUSPICION_TIMEOUT", None, None, "500",
        "Silence of the primary after which an election begins, in milliseconds",
        _whole(20, 3_600_000),
    ),
    Setting(
        "election_quorum", "NUN_ELECTION_QUORUM", None, None, "auto",
        "Who may elect: auto, majority, or none (a lone survivor takes over)",
        _one_of("auto", "majority", "none"),
    ),
    Setting(
        "election", "NUN_ELECTION", None, None, "bully",
        "How a primary is found: bully, fixed, or what a plugin names", _election,
    ),
    Setting(
        "fixed_primary", "NUN_FIXED_PRIMARY", None, None, "",
        "The host:port of the only node that may be primary (default: any)", parse_peer,
    ),
    Setting(
        "no_primary_wait_ms", "NUN_NO_PRIMARY_WAIT", None, None, "",
        "How long a write waits for a primary, in milliseconds (default: the election timeout)",
        _whole(0, 3_600_000),
    ),
    Setting(
        "write_concern", "NUN_WRITE_CONCERN", None, None, "primary",
        "Who must have a write before it is answered: primary, majority, a number of replicas",
        _concern,
    ),
    Setting(
        "write_concern_timeout_ms", "NUN_WRITE_CONCERN_TIMEOUT", None, None, "5000",
        "How long a write waits for its concern, in milliseconds", _whole(1, 3_600_000),
    ),
    Setting(
        "min_replicas", "NUN_MIN_REPLICAS", None, None, "0",
        "Writes are refused while fewer replicas follow the primary", _whole(0, 31),
    ),
    Setting(
        "max_oplog_bytes", "NUN_MAX_OP_LOG_SIZE", "max-op-log-size", None, "1GiB",
        "How large the log may grow; a quarter of it makes a snapshot", _size(MIB, 1024 * GIB),
    ),
    Setting(
        "durability", "NUN_DURABILITY", "durability", None, "os",
        "What an answered write has survived: os, interval or disk",
        _one_of("os", "interval", "disk"),
    ),
    Setting(
        "storage_strategy", "NUN_STORAGE_STRATEGY", None, None, "disk",
        "Where snapshots are kept: disk, s3, or what a plugin names", _kind,
    ),
    Setting(
        "storage_read_strategy", "NUN_STORAGE_READ_STRATEGY", None, None, "",
        "Where a start reads snapshots from, if elsewhere", _kind,
    ),
    Setting(
        "storage_write_strategy", "NUN_STORAGE_WRITE_STRATEGY", None, None, "",
        "Where snapshots are written to, if elsewhere", _kind,
    ),
    Setting(
        "s3_bucket", "NUN_S3_BUCKET", None, None, "", "The bucket of the snapshots", _bucket
    ),
    Setting(
        "s3_prefix", "NUN_S3_PREFIX", None, None, "",
        "What the keys of this node's objects begin with", _prefix,
    ),
    Setting(
        "s3_read_prefix", "NUN_S3_READ_PREFIX", None, None, "",
        "The prefix a start reads from, if another", _prefix,
    ),
    Setting(
        "s3_key_id", "NUN_S3_KEY_ID", None, None, "",
        "Access key id (default: what boto3 finds)", str,
    ),
    Setting("s3_secret_key", "NUN_S3_SECRET_KEY", None, None, "", "Secret key to it", str),
    Setting(
        "s3_api_url", "NUN_S3_API_URL", None, None, "",
        "Address of a service that is not Amazon's", _url,
    ),
    Setting(
        "s3_max_inflight_requests", "NUN_S3_MAX_INFLIGHT_REQUESTS", None, None, "10",
        "How many requests may be under way at once", _whole(1, 1000),
    ),
    Setting(
        "s3_number_of_partitions", "NUN_S3_NUMBER_OF_PARTITIONS", None, None, "10",
        "Files or objects a snapshot of a database is split into", _whole(1, 10_000),
    ),
    Setting(
        "s3_retry", "NUN_S3_RETRY", None, None, "3",
        "How often a request that failed is tried again", _whole(0, 100),
    ),
)  # fmt: skip
