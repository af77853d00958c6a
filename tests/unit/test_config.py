"""The configuration: precedence, defaults, refusals, and what must never be shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from nuntwist.config import NodeConfig, make_config
from nuntwist.errors import ConfigError
from nuntwist.settings import GIB, KIB, MIB, SETTINGS

CREDENTIALS = {"NUN_USER": "ada", "NUN_PWD": "lovelace"}
KEYS = {"NUN_S3_KEY_ID": "id", "NUN_S3_SECRET_KEY": "hush2"}
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def refused(options: Mapping[str, str | None], environment: Mapping[str, str]) -> str:
    """The one sentence with which these are refused."""
    with pytest.raises(ConfigError) as caught:
        make_config(options, environment)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_nothing_given() -> None:
    config = make_config({}, {})
    assert dataclasses.replace(config, warnings=()) == NodeConfig()
    assert (config.user, config.password) == ("nun", "nun-pwd")
    assert not config.credentials_configured
    assert config.tcp_endpoints == ("tcp:3014:interface=127.0.0.1",)
    assert config.node_address == "127.0.0.1:3014"


def test_with_credentials_it_listens_everywhere() -> None:
    config = make_config({}, CREDENTIALS)
    assert config.credentials_configured
    assert config.websocket_endpoints == ("tcp:3012:interface=0.0.0.0",)
    assert config.http_endpoints == ("tcp:3013:interface=0.0.0.0",)
    assert config.tcp_endpoints == ("tcp:3014:interface=0.0.0.0",)


def test_option_beats_environment_beats_default() -> None:
    environment = {"NUN_DBS_DIR": "from-environment", "NUN_LOG_LEVEL": "warn"}
    config = make_config({"dbs-dir": "from-option", "log-level": None}, environment)
    assert config.dbs_dir == "from-option"
    assert config.log_level == "warn"
    assert config.log_format == "text"


def test_every_default_in_the_table_is_the_default() -> None:
    for setting in SETTINGS:
        if setting.default and not setting.field.endswith("_endpoints"):
            assert setting.read(setting.default) == getattr(NodeConfig(), setting.field)


def test_every_setting_reaches_its_field() -> None:
    texts = {
        "NUN_WS_ADDR": "127.0.0.1:1",
        "NUN_HTTP_ADDR": "off",
        "NUN_TCP_ADDR": "[::1]:2",
        "NUN_REPLICATE_ADDR": "a:1, b:2,",
        "NUN_EXTERNAL_ADDR": "c:3",
        "NUN_LOG_LEVEL": "debug",
        "NUN_LOG_FORMAT": "json",
        "NUN_ELECTION_TIMEOUT": "70",
        "NUN_HEARTBEAT_INTERVAL": "50",
        "NUN_SUSPICION_TIMEOUT": "250",
        "NUN_ELECTION_QUORUM": "none",
        "NUN_ELECTION": "fixed",
        "NUN_FIXED_PRIMARY": "d:4",
        "NUN_NO_PRIMARY_WAIT": "8",
        "NUN_MIN_REPLICAS": "2",
        "NUN_WRITE_CONCERN": "majority",
        "NUN_WRITE_CONCERN_TIMEOUT": "9",
        "NUN_MAX_OP_LOG_SIZE": "2MiB",
        "NUN_DURABILITY": "disk",
        "NUN_DECLUTTER_INTERVAL": "1.5",
        "NUN_MAX_LINE": "2k",
        "NUN_MAX_BODY": "3 KiB",
        "NUN_OUTPUT_HIGH_WATER": "4096",
        "NUN_OUTPUT_LIMIT": "5KB",
        "NUN_OUTPUT_TOTAL": "6KB",
        "NUN_INPUT_TOTAL": "7KB",
        "NUN_WATCH_TOTAL": "7KB",
        "NUN_MAX_CONNECTIONS": "11",
        "NUN_MAX_CONNECTIONS_PER_ADDRESS": "12",
        "NUN_HANDSHAKE_TIMEOUT": "16",
        "NUN_COMMAND_TIMEOUT": "17",
        "NUN_IDLE_TIMEOUT": "18",
        "NUN_COMMAND_RATE": "19",
        "NUN_FAILED_LOGINS": "13",
        "NUN_TOKEN_WARNING": "14",
        "NUN_MAX_KEY_LENGTH": "15KiB",
        "NUN_MAX_VALUE_LENGTH": "16K",
        "NUN_MAX_WATCHES": "17",
        "NUN_MAX_DATABASES": "18",
        "NUN_MAX_KEYS": "19",
        "NUN_MAX_DATABASE_SIZE": "20M",
        "NUN_CONFLICT_TIMEOUT": "14",
        "NUN_ARBITER_TIMEOUT": "16",
        "NUN_ARBITER_WINDOW": "17",
        "NUN_RESOLVED_KEPT": "15",
        "NUN_TRUSTED_PROXIES": "10.0.0.7, 2001:db8::/32,unix",
        "NUN_ALLOWED_ORIGINS": "https://A.example/, http://[::1]:8080,null",
        "NUN_STORAGE_STRATEGY": "s3",
        "NUN_STORAGE_READ_STRATEGY": "disk",
        "NUN_STORAGE_WRITE_STRATEGY": "s3",
        "NUN_S3_BUCKET": "text-bucket",
        "NUN_S3_API_URL": "http://text:1",
        "NUN_S3_MAX_INFLIGHT_REQUESTS": "6",
        "NUN_S3_NUMBER_OF_PARTITIONS": "8",
        "NUN_S3_RETRY": "0",
    }
    environment = {s.variable: texts.get(s.variable, f"text-{s.field}") for s in SETTINGS}
    config = make_config({}, environment)
    expected = {s.field: s.read(environment[s.variable]) for s in SETTINGS}
    for name, value in expected.items():
        assert getattr(config, name) == value, name
        assert value != getattr(NodeConfig(), name) or name == "storage_read_strategy", name
    assert config.replicate_addresses == ("a:1", "b:2")
    assert (config.max_oplog_bytes, config.max_line, config.max_body) == (2 * MIB, 2048, 3072)
    assert (config.output_high_water, config.output_limit) == (4096, 5120)
    assert config.declutter_seconds == 1.5
    assert config.node_address == "c:3"


def test_options_reach_the_same_fields() -> None:
    for setting in SETTINGS:
        if setting.option is not None and setting.default:
            text = "127.0.0.1:9" if setting.field.endswith("_endpoints") else setting.default
            both = {"user": "ada", "pwd": "x"} if setting.field in ("user", "password") else {}
            config = make_config({**both, setting.option: text}, {})
            assert getattr(config, setting.field) == setting.read(text)


def test_empty_means_not_given() -> None:
    empty = {s.variable: "" for s in SETTINGS if not s.field.endswith("_endpoints")}
    assert make_config({}, empty) == make_config({}, {})
    assert make_config({"dbs-dir": ""}, {"NUN_DBS_DIR": "data"}).dbs_dir == "data"


def test_an_empty_listener_is_off() -> None:
    config = make_config({"ws-address": ""}, {"NUN_HTTP_ADDR": "", "NUN_TCP_ADDR": "off"})
    assert (config.websocket_endpoints, config.http_endpoints, config.tcp_endpoints) == (
        (),
        (),
        (),
    )
    assert config.node_address == ""


@pytest.mark.parametrize(
    "address", [":3014", "0.0.0.0:3014", "[::]:3014", "tcp:3014", "10.0.0.1:1"]
)
def test_without_credentials_others_are_refused(address: str) -> None:
    sentence = refused({"tcp-address": address}, {})
    assert sentence.startswith("--tcp-address asks to listen on")
    assert "NUN_USER and NUN_PWD" in sentence
    assert make_config({"tcp-address": address}, CREDENTIALS).tcp_endpoints


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/nun.sock"])
def test_without_credentials_this_machine_is_served(address: str) -> None:
    assert make_config({}, {"NUN_WS_ADDR": address}).websocket_endpoints


@pytest.mark.parametrize("variable", ["NUN_WS_ADDR", "NUN_HTTP_ADDR", "NUN_TCP_ADDR"])
def test_the_refusal_names_the_variable(variable: str) -> None:
    assert refused({}, {variable: "0.0.0.0:1"}).startswith(variable)


def test_one_bad_listener_among_good_ones_is_refused() -> None:
    refused({}, {"NUN_TCP_ADDR": "127.0.0.1:1,10.0.0.1:1"})


def test_half_credentials_are_refused() -> None:
    assert "NUN_USER is set but no password" in refused({}, {"NUN_USER": "ada"})
    assert "--pwd is set but no user" in refused({"pwd": "hush-hush"}, {})
    assert "hush-hush" not in refused({"pwd": "hush-hush"}, {})
    refused({}, {"NUN_USER": "ada", "NUN_PWD": ""})


def test_option_and_variable_make_a_pair() -> None:
    config = make_config({"user": "ada"}, {"NUN_PWD": "x"})
    assert (config.user, config.password, config.credentials_configured) == ("ada", "x", True)


def test_credentials_that_no_client_could_send() -> None:
    assert refused({}, {"NUN_USER": "a b", "NUN_PWD": "x"}).startswith("NUN_USER holds spaces")
    sentence = refused({}, {"NUN_USER": "a", "NUN_PWD": "hush\nhush"})
    assert sentence.startswith("NUN_PWD holds a line break")
    assert "hush" not in sentence


@pytest.mark.parametrize(
    ("options", "environment", "beginning"),
    [
        ({}, {"NUN_TCP_ADDR": "localhost:http"}, "NUN_TCP_ADDR is 'localhost:http': "),
        ({"ws-address": "nope"}, {}, "--ws-address is 'nope': "),
        ({}, {"NUN_LOG_LEVEL": "loud"}, "NUN_LOG_LEVEL is 'loud': "),
        ({"log-format": "xml"}, {}, "--log-format is 'xml': "),
        ({}, {"NUN_MAX_LINE": "1.5MiB"}, "NUN_MAX_LINE is '1.5MiB': "),
        ({}, {"NUN_MAX_LINE": "10"}, "NUN_MAX_LINE is '10': "),
        ({}, {"NUN_MAX_LINE": "-1"}, "NUN_MAX_LINE is '-1': "),
        ({}, {"NUN_ELECTION_TIMEOUT": "0"}, "NUN_ELECTION_TIMEOUT is '0': "),
        ({}, {"NUN_ELECTION_TIMEOUT": "1s"}, "NUN_ELECTION_TIMEOUT is '1s': "),
        ({}, {"NUN_DECLUTTER_INTERVAL": "nan"}, "NUN_DECLUTTER_INTERVAL is 'nan': "),
        ({}, {"NUN_DECLUTTER_INTERVAL": "0"}, "NUN_DECLUTTER_INTERVAL is '0': "),
        ({}, {"NUN_REPLICATE_ADDR": "a:1,b"}, "NUN_REPLICATE_ADDR is 'a:1,b': "),
        ({}, {"NUN_EXTERNAL_ADDR": "tcp:1:2"}, "NUN_EXTERNAL_ADDR is 'tcp:1:2': "),
        ({}, {"NUN_STORAGE_STRATEGY": "a tape"}, "NUN_STORAGE_STRATEGY is 'a tape': "),
        ({}, {"NUN_S3_RETRY": "x"}, "NUN_S3_RETRY is 'x': "),
        ({}, {"NUN_S3_BUCKET": "s3://b/c d"}, "NUN_S3_BUCKET is 's3://b/c d': "),
        ({}, {"NUN_S3_PREFIX": "s3://b/c"}, "NUN_S3_PREFIX is 's3://b/c': "),
        ({}, {"NUN_S3_API_URL": "localhost:9000"}, "NUN_S3_API_URL is 'localhost:9000': "),
        ({}, {"NUN_STORAGE_STRATEGY": "s3"}, "NUN_STORAGE_STRATEGY is 's3' but no bucket"),
        ({}, {"NUN_STORAGE_READ_STRATEGY": "s3"}, "NUN_STORAGE_READ_STRATEGY is 's3' but no"),
        (
            {},
            {"NUN_STORAGE_STRATEGY": "s3", "NUN_STORAGE_WRITE_STRATEGY": "disk"},
            "NUN_STORAGE_STRATEGY is 's3' but no bucket",
        ),
        ({}, {"NUN_S3_KEY_ID": "id"}, "NUN_S3_KEY_ID is set but NUN_S3_SECRET_KEY is not: "),
        ({"output-limit": "1KiB"}, {}, "--output-limit is 1024: "),
    ],
)
def test_a_bad_value_is_named(
    options: dict[str, str | None], environment: dict[str, str], beginning: str
) -> None:
    assert refused(options, environment).startswith(beginning)


@pytest.mark.parametrize(
    ("name", "level"),
    [("TRACE", "debug"), ("Info", "info"), ("warning", "warn"), ("fatal", "critical")],
)
def test_level_names_of_other_servers(name: str, level: str) -> None:
    assert make_config({}, {"NUN_LOG_LEVEL": name}).log_level == level


def test_no_secret_in_the_repr() -> None:
    config = make_config({}, {"NUN_USER": "ada", "NUN_PWD": "hush1", **KEYS})
    assert (config.password, config.s3_secret_key) == ("hush1", "hush2")
    assert "hush" not in repr(config)
    assert "nun-pwd" not in repr(NodeConfig())


def test_warnings() -> None:
    (alone,) = make_config({}, {}).warnings
    assert "No credentials" in alone
    assert "nun-pwd" not in alone
    named = {**CREDENTIALS, "NUN_ALLOWED_ORIGINS": "https://a.example"}
    environment = {**named, "NUN_ELECTION_QUORUM": "none", "NUN_REPLICATE_ADDR": "a:1"}
    (survivor,) = make_config({}, environment).warnings
    assert survivor.startswith("NUN_ELECTION_QUORUM is none: ")
    assert make_config({}, named).warnings == ()


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("0.0.0.0:3012", True),
        ("[::]:3012", True),
        ("10.0.0.1:3012", True),
        ("ssl:3443:privateKey=k:certKey=c", True),
        ("127.0.0.1:3012, 10.0.0.1:3012", True),
        ("127.0.0.1:3012", False),
        ("localhost:3012", False),
        ("[::1]:3012", False),
        ("unix:/run/nun.sock", False),
        ("off", False),
    ],
)
def test_pages_of_any_site_are_warned_of_where_they_could_come(address: str, warns: bool) -> None:
    warnings = make_config({}, {**CREDENTIALS, "NUN_WS_ADDR": address}).warnings
    assert [text.split()[0] for text in warnings] == ["NUN_ALLOWED_ORIGINS"] * warns


@pytest.mark.parametrize(
    ("variable", "secret", "said"),
    [
        ("NUN_PWD", "nun-pwd", "NUN_PWD is the well-known password of every node without one"),
        ("NUN_PWD", "long;secret", "NUN_PWD holds a semicolon, which ends a command over "),
        (
            "NUN_CLUSTER_SECRET",
            "quite short, it",
            "NUN_CLUSTER_SECRET has fewer than 16 characters",
        ),
        ("NUN_CLUSTER_SECRET", "just long enough", None),
    ],
)
def test_secrets_that_protect_little_are_warned_of(
    variable: str, secret: str, said: str | None
) -> None:
    local = {**CREDENTIALS, "NUN_WS_ADDR": "off"}
    warnings = make_config({}, {**local, variable: secret}).warnings
    assert len(warnings) == (said is not None)
    assert "".join(warnings).startswith(said or "")
    if secret != "nun-pwd":
        assert secret not in "".join(warnings)
    # What goes by an option is named as that.
    if variable == "NUN_PWD" and said is not None:
        user = {"user": "admin", "pwd": secret}
        (warning,) = make_config(user, {"NUN_WS_ADDR": "off"}).warnings
        assert warning.startswith("--pwd ")


@pytest.mark.parametrize("text", ["a.example", "https://*.example", "https://a/b", "https://"])
def test_what_is_no_origin(text: str) -> None:
    sentence = refused({}, {"NUN_ALLOWED_ORIGINS": text})
    assert sentence.startswith(f"NUN_ALLOWED_ORIGINS is {text!r}: it must be a comma list of ")


def test_secrets_of_s3_come_in_pairs() -> None:
    sentence = refused({}, {"NUN_S3_SECRET_KEY": "hush-hush"})
    assert sentence.startswith("NUN_S3_SECRET_KEY is set but NUN_S3_KEY_ID is not: ")
    assert "hush-hush" not in sentence


def test_where_snapshots_are_read_and_written() -> None:
    def strategies(**given: str) -> tuple[str, str]:
        environment = {f"NUN_STORAGE_{name}": value for name, value in given.items()}
        config = make_config({}, {**environment, "NUN_S3_BUCKET": "bucket"})
        return config.read_strategy, config.write_strategy

    assert strategies() == ("disk", "disk")
    assert strategies(STRATEGY="s3") == ("s3", "s3")
    assert strategies(STRATEGY="s3", READ_STRATEGY="disk") == ("disk", "s3")
    assert strategies(READ_STRATEGY="s3") == ("s3", "disk")
    assert strategies(READ_STRATEGY="s3", WRITE_STRATEGY="s3") == ("s3", "s3")
    assert make_config({}, {"NUN_S3_PREFIX": "/a/b/"}).s3_prefix == "a/b"


def test_sizes() -> None:
    read = next(s.read for s in SETTINGS if s.field == "output_limit")
    assert [read(t) for t in ("1024", "1k", "2 MiB", "3MB", "1g")] == [
        KIB,
        KIB,
        2 * MIB,
        3 * MIB,
        GIB,
    ]


def test_the_page_tells_of_every_setting() -> None:
    rows = PAGE.read_text().splitlines()
    for setting in SETTINGS:
        option = f"`--{setting.option}`" if setting.option else "-"
        default = f"`{setting.default}`" if setting.default else "-"
        start = f"| `{setting.variable}` | {option} | {default} |"
        assert any(row.startswith(start) for row in rows), start
