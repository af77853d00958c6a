"""The configuration of a node: one frozen value, and the one function that makes it.

:func:`make_config` takes the options given and the environment (both plain mappings: nothing
here looks at the real ones), reads them by the table in :mod:`nuntwist.settings` and gives a
:class:`NodeConfig`.  An option beats the environment, the environment beats the default, and
an empty text counts as not given, save for the three listeners, where it means "off".

The one rule that spans several settings is safety: a node without credentials is for this
machine only.  Then it listens on 127.0.0.1, and asked to listen elsewhere it refuses.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nuntwist.addresses import PROXIED, host_and_port, is_local, is_unix
from nuntwist.errors import ConfigError
from nuntwist.settings import GIB, KIB, MIB, SETTINGS, Setting

WELL_KNOWN = "nun-pwd"
"""The password of a node without one, as of every NunDB."""
SHORTEST_SECRET = 16
"""Characters below which the secret of a set is warned of."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node is told at its start; see docs/configuration.md for the meaning of each.

    Secrets never show in its ``repr``.

    :ivar user: the admin's name.
    :ivar password: the admin's password; also the token of the database ``$admin``.
    :ivar credentials_configured: whether both were given; False: the well-known defaults.
    :ivar dbs_dir: the data directory.
    :ivar websocket_endpoints: Twisted endpoint strings to listen on; none: that is off.
    :ivar http_endpoints: the same for HTTP.
    :ivar tcp_endpoints: the same for the line protocol.
    :ivar replicate_addresses: ``host:port`` of each member of the replica set.
    :ivar external_address: ``host:port`` under which others reach this node; may be empty.
    :ivar log_level: one of settings.LEVELS: the lowest that is written.
    :ivar log_format: ``text`` or ``json``.
    :ivar audit_file: where logins and what admins do are written down; empty: nowhere.
    :ivar cluster_secret: what members prove to each other; empty: made of the credentials.
    :ivar peer_ca: where the certificates are of who signs those of nodes; empty: they need none.
    :ivar election_timeout_ms: how long a round of an election may take, and a first node waits
        for others, in milliseconds.
    :ivar heartbeat_ms: time between two heartbeats, in milliseconds.
    :ivar suspicion_ms: silence of the primary after which an election begins, in milliseconds.
    :ivar election_quorum: ``auto``, ``majority`` or ``none``: who may elect.
    :ivar election: ``bully``, ``fixed`` or the name of a plugin: how a primary is found.
    :ivar fixed_primary: where the only node is that may be primary; empty: any may.
    :ivar no_primary_wait_ms: how long a write waits for a primary; None: a round of an election.
    :ivar write_concern: ``primary``, ``majority`` or a number of replicas.
    :ivar write_concern_timeout_ms: how long a write waits for that, in milliseconds.
    :ivar min_replicas: how many replicas must follow for writes to be taken.
    :ivar durability: ``os``, ``interval`` or ``disk``: what an answered write has survived.
    :ivar max_oplog_bytes: how large the op log may grow, in bytes.
    :ivar declutter_seconds: time between two snapshots on the timer, in seconds.
    :ivar max_line: longest command, line or WebSocket message, in bytes.
    :ivar max_body: longest HTTP request body, in bytes.
    :ivar max_key: longest key that is set or watched, in bytes.
    :ivar max_value: longest value that is set, in bytes; 0 for what a command holds.
    :ivar max_watches: how many keys one connection may watch.
    :ivar watch_total: bytes of the watches of all connections at which those with most are closed.
    :ivar max_databases: how many databases there may be; 0 for any number.
    :ivar max_keys: how many keys one database may hold; 0 for any number.
    :ivar max_database_size: bytes that one database may hold; 0 for any number.
    :ivar max_connections: how many clients may be connected.
    :ivar max_connections_of_one: how many of them from one address; 0 for any number.
    :ivar handshake_seconds: for a handshake, or the head of an HTTP request; 0 for any time.
    :ivar command_seconds: for a command, message or body that has begun; 0 for any time.
    :ivar idle_seconds: a client may be silent; 0 for ever.
    :ivar command_rate: commands a second of one connection; 0 for any number.
    :ivar failed_logins: failures after which logins of an address have to wait; 0 for never.
    :ivar token_warning: seconds before the end of a signed token at which that is announced.
    :ivar trusted_proxies: addresses and networks of proxies that are believed who a client is.
    :ivar allowed_origins: of pages that may connect by WebSocket, or send commands over HTTP; empty
        for any.
    :ivar conflict_seconds: after which a conflict that nobody decides is settled; 0 for never.
    :ivar arbiter_seconds: that an arbiter has for a conflict before another gets it; 0 for any.
    :ivar arbiter_window: conflicts that one arbiter may have been sent and not decided.
    :ivar resolved_seconds: after which decided conflicts are removed; 0 for never.
    :ivar output_high_water: unsent bytes at which a connection is no longer read.
    :ivar output_limit: unsent bytes at which a connection is closed.
    :ivar output_total: unsent bytes of all connections at which those with most are closed.
    :ivar input_total: bytes of unfinished commands of all connections, at which those with most
        are closed.
    :ivar storage_strategy: ``disk``, ``s3`` or the name of a plugin: where snapshots are.
    :ivar storage_read_strategy: where a start reads them from; empty: as the strategy says.
    :ivar storage_write_strategy: where they are written to; empty: as the strategy says.
    :ivar s3_key_id: access key id; empty: boto3 looks for credentials in its usual places.
    :ivar s3_secret_key: the secret key to it.
    :ivar s3_bucket: the bucket.
    :ivar s3_prefix: what all keys begin with; no slashes at its ends.
    :ivar s3_read_prefix: the same for reading; empty: the prefix.
    :ivar s3_api_url: address of a service that is not Amazon's.
    :ivar s3_max_inflight_requests: how many requests may be under way at once.
    :ivar s3_number_of_partitions: into how many files or objects a database is split.
    :ivar s3_retry: how often a request that failed is tried again.
    :ivar warnings: sentences that the operator should see in the log at the start.
    """

    user: str = "nun"
    password: str = field(default=WELL_KNOWN, repr=False)
    credentials_configured: bool = False
    dbs_dir: str = "dbs"
    websocket_endpoints: tuple[str, ...] = ("tcp:3012:interface=127.0.0.1",)
    http_endpoints: tuple[str, ...] = ("tcp:3013:interface=127.0.0.1",)
    tcp_endpoints: tuple[str, ...] = ("tcp:3014:interface=127.0.0.1",)
    replicate_addresses: tuple[str, ...] = ()
    external_address: str = ""
    log_level: str = "info"
    log_format: str = "text"
    audit_file: str = ""
    cluster_secret: str = field(default="", repr=False)
    peer_ca: str = ""
    election_timeout_ms: int = 1000
    heartbeat_ms: int = 100
    suspicion_ms: int = 500
    election_quorum: str = "auto"
    election: str = "bully"
    fixed_primary: str = ""
    no_primary_wait_ms: int | None = None
    write_concern: str = "primary"
    write_concern_timeout_ms: int = 5000
    min_replicas: int = 0
    max_oplog_bytes: int = GIB
    durability: str = "os"
    declutter_seconds: float = 300.0
    max_line: int = MIB
    max_body: int = 8 * MIB
    max_key: int = 4 * KIB
    max_value: int = 0
    max_watches: int = 100_000
    watch_total: int = 256 * MIB
    max_databases: int = 0
    max_keys: int = 0
    max_database_size: int = 0
    max_connections: int = 20_000
    max_connections_of_one: int = 0
    handshake_seconds: int = 10
    command_seconds: int = 60
    idle_seconds: int = 0
    command_rate: int = 0
    failed_logins: int = 10
    token_warning: int = 60
    trusted_proxies: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    conflict_seconds: int = 0
    arbiter_seconds: int = 30
    arbiter_window: int = 500
    resolved_seconds: int = 86_400
    output_total: int = 256 * MIB
    input_total: int = 128 * MIB
    output_high_water: int = 256 * KIB
    output_limit: int = 16 * MIB
    storage_strategy: str = "disk"
    storage_read_strategy: str = ""
    storage_write_strategy: str = ""
    s3_key_id: str = ""
    s3_secret_key: str = field(default="", repr=False)
    s3_bucket: str = ""
    s3_prefix: str = ""
    s3_read_prefix: str = ""
    s3_api_url: str = ""
    s3_max_inflight_requests: int = 10
    s3_number_of_partitions: int = 10
    s3_retry: int = 3
    warnings: tuple[str, ...] = ()

    @property
    def node_address(self) -> str:
        """``host:port`` by which the node names itself: the external address, else the first
        TCP listener that has one, else nothing."""
        if self.external_address:
            return self.external_address
        found = (host_and_port(endpoint) for endpoint in self.tcp_endpoints)
        return next((address for address in found if address is not None), "")

    @property
    def peer_secret(self) -> bytes:
        """What members prove to each other that they have."""
        return (self.cluster_secret or f"{self.user}:{self.password}").encode()

    @property
    def read_strategy(self) -> str:
        """Where a start reads snapshots from."""
        return self.storage_read_strategy or self.storage_strategy

    @property
    def write_strategy(self) -> str:
        """Where snapshots are written to."""
        return self.storage_write_strategy or self.storage_strategy


_LISTENERS = ("websocket_endpoints", "http_endpoints", "tcp_endpoints")


def make_config(options: Mapping[str, str | None], environment: Mapping[str, str]) -> NodeConfig:
    """Make the configuration of a node.

    :param options: long option (without dashes) to its text; None or missing: not given.
    :param environment: as ``os.environ``; only ``NUN_…`` variables are looked at.
    :raise ConfigError: one sentence that names the option or variable, and its value unless
        that is a secret.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in SETTINGS:
        found = _given(setting, options, environment)
        if found is None:
            continue
        source, text = found
        try:
            values[setting.field] = setting.read(text)
        except ValueError as error:
            raise ConfigError(f"{source} is {text!r}: {error}.") from None
        sources[setting.field] = source
    _check_credentials(values, sources)
    config = NodeConfig(**_with_defaults(values))
    if not config.credentials_configured:
        _check_local(config, sources)
    if config.output_limit < config.output_high_water:
        raise ConfigError(
            f"{sources.get('output_limit', 'NUN_OUTPUT_LIMIT')} is {config.output_limit}:"
            f" it must not be below the high-water mark of {config.output_high_water} bytes."
        )
    if config.suspicion_ms < 3 * config.heartbeat_ms:
        raise ConfigError(
            f"{sources.get('suspicion_ms', 'NUN_SUSPICION_TIMEOUT')} is {config.suspicion_ms}:"
            f" it must be at least three heartbeats of {config.heartbeat_ms} ms."
        )
    _check_proxies(config, sources)
    config = _with_election(config, sources)
    _check_s3(config, sources)
    return dataclasses.replace(config, warnings=tuple(_warnings(config, sources)))


def _given(
    setting: Setting, options: Mapping[str, str | None], environment: Mapping[str, str]
) -> tuple[str, str] | None:
    """Where the setting was given, and its text; None where it was not."""
    option = None if setting.option is None else options.get(setting.option)
    empty_counts = setting.field in _LISTENERS
    if option is not None and (option or empty_counts):
        return f"--{setting.option}", option
    variable = environment.get(setting.variable)
    if variable is not None and (variable or empty_counts):
        return setting.variable, variable
    return None


def _check_credentials(values: dict[str, Any], sources: dict[str, str]) -> None:
    if ("user" in values) != ("password" in values):
        given, missing = "user", "password (NUN_PWD or --pwd)"
        if "password" in values:
            given, missing = "password", "user (NUN_USER or --user)"
        raise ConfigError(f"{sources[given]} is set but no {missing} is: give both or neither.")
    for name in ("user", "password"):
        # `auth USER PWD` could never carry these: the admin would be locked out.
        if re.search(r"[\r\n]" if name == "password" else r"[\r\n;\s]", values.get(name, "")):
            what = "a line break" if name == "password" else "spaces, line breaks or semicolons"
            raise ConfigError(f"{sources[name]} holds {what}, which no client could send.")
    values["credentials_configured"] = "user" in values


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Without credentials the defaults are NodeConfig's own: loopback."""
    if not values["credentials_configured"]:
        return values
    public = {s.field: s.read(s.default) for s in SETTINGS if s.field in _LISTENERS}
    return public | values


def _check_local(config: NodeConfig, sources: dict[str, str]) -> None:
    for name in _LISTENERS:
        for endpoint in getattr(config, name):
            if not is_local(endpoint):
                raise ConfigError(
                    f"{sources[name]} asks to listen on {endpoint!r}, which other machines may"
                    " reach, but no credentials are configured: set NUN_USER and NUN_PWD"
                    " (or --user and --pwd), or listen on 127.0.0.1."
                )


def _check_proxies(config: NodeConfig, sources: dict[str, str]) -> None:
    """A port for proxies is none where no proxy is known."""
    for name in _LISTENERS:
        for endpoint in getattr(config, name):
            if not endpoint.startswith(PROXIED):
                continue
            asks = f"{sources[name]} asks to listen on {endpoint!r}, but"
            if not is_unix(endpoint) and not set(config.trusted_proxies) - {"unix"}:
                raise ConfigError(f"{asks} no proxies are known: set NUN_TRUSTED_PROXIES.")
            if is_unix(endpoint) and "unix" not in config.trusted_proxies:
                raise ConfigError(
                    f"{asks} who comes over a unix socket is not trusted: add the word unix to"
                    " NUN_TRUSTED_PROXIES."
                )


def _with_election(config: NodeConfig, sources: dict[str, str]) -> NodeConfig:
    """Who names a primary asks for the election that heeds it."""
    named = bool(config.fixed_primary)
    if named and "election" not in sources:
        return dataclasses.replace(config, election="fixed")
    if named and config.election == "bully":
        raise ConfigError(
            f"{sources['fixed_primary']} is {config.fixed_primary!r}, but {sources['election']} is"
            " 'bully', which elects any node: set one of the two."
        )
    if config.election == "fixed" and not named:
        raise ConfigError(
            f"{sources['election']} is 'fixed' but no node is named: set NUN_FIXED_PRIMARY."
        )
    return config


def _check_s3(config: NodeConfig, sources: dict[str, str]) -> None:
    for name, other in (("s3_key_id", "NUN_S3_SECRET_KEY"), ("s3_secret_key", "NUN_S3_KEY_ID")):
        if name in sources and other not in sources.values():
            raise ConfigError(f"{sources[name]} is set but {other} is not: give both or neither.")
    asking = [
        source
        for name in ("read_strategy", "write_strategy")
        if getattr(config, name) == "s3"
        for source in (sources.get(f"storage_{name}") or sources["storage_strategy"],)
    ]
    if asking and not config.s3_bucket:
        raise ConfigError(f"{asking[0]} is 's3' but no bucket is named: set NUN_S3_BUCKET.")


def _is_public(config: NodeConfig) -> bool:
    """Whether WebSocket is listened for on more than this machine."""
    local = ("interface=127.", "interface=\\:\\:1", "interface=localhost")
    return any(
        not endpoint.startswith("unix:") and not any(part in endpoint for part in local)
        for endpoint in config.websocket_endpoints
    )


def _warnings(config: NodeConfig, sources: dict[str, str]) -> list[str]:
    sentences = []
    if not config.credentials_configured:
        sentences.append(
            "No credentials are configured: the node listens on this machine only, and anybody"
            f" on it can be admin with the well-known user {config.user!r}; set NUN_USER and"
            " NUN_PWD."
        )
    sentences += _weak_secrets(config, sources)
    if config.credentials_configured and not config.allowed_origins and _is_public(config):
        sentences.append(
            "NUN_ALLOWED_ORIGINS is not set: pages of any site may connect by WebSocket and HTTP,"
            " from where their visitors are; name the origins of your pages."
        )
    if config.peer_ca and not any(
        endpoint.removeprefix(PROXIED).startswith("ssl:") for endpoint in config.tcp_endpoints
    ):
        sentences.append(
            "NUN_PEER_CA is set but no TCP listener speaks TLS (ssl:): no other node can connect to"
            " this one."
        )
    if config.election_quorum == "none":
        sentences.append(
            "NUN_ELECTION_QUORUM is none: a node that sees no others takes over without them, so"
            " two halves of a network may both take writes, and those of one half are cut off"
            " when they meet."
        )
    idle = [sources[s.field] for s in SETTINGS if s.field in sources and not s.in_effect]
    if idle:
        sentences.append(f"Set, but without effect in this release: {', '.join(idle)}.")
    return sentences


def _weak_secrets(config: NodeConfig, sources: dict[str, str]) -> Iterator[str]:
    """Sentences about secrets that protect less than they seem to, without them."""
    if config.credentials_configured and config.password == WELL_KNOWN:
        yield (
            f"{sources['password']} is the well-known password of every node without one: choose"
            " another."
        )
    if ";" in config.password:
        yield (
            f"{sources['password']} holds a semicolon, which ends a command over WebSocket and"
            " HTTP: nobody can be admin there, nor with nun-db; choose another."
        )
    if 0 < len(config.cluster_secret) < SHORTEST_SECRET:
        yield (
            f"{sources['cluster_secret']} has fewer than {SHORTEST_SECRET} characters, and could be"
            " guessed by whoever poses as a node: make it long and random (head -c 32 /dev/urandom"
            " | base64)."
        )
