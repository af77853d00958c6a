"""Log lines: their form, what is escaped, what is hidden, what is left out."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher as LegacyPublisher

from nuntwist.config import NodeConfig
from nuntwist.logs import LineObserver, clean, make_observer, redact, render_json, render_text

AT = 1795442400.1234


def event(message: str, **fields: Any) -> dict[str, Any]:
    return {
        "log_time": AT,
        "log_level": LogLevel.info,
        "log_namespace": "nuntwist.net.tcp",
        "log_format": message,
        **fields,
    }


def failure(text: str) -> Failure:
    try:
        raise ValueError(text)
    except ValueError:
        return Failure()


def written(config: NodeConfig, namespace: str = "nuntwist.x") -> list[str]:
    """What one event of every level leaves in the stream."""
    stream = io.StringIO()
    log = Logger(namespace, observer=make_observer(config, stream))
    for level in ("debug", "info", "warn", "error", "critical"):
        getattr(log, level)("said {n}", n=level)
    return stream.getvalue().splitlines()


def test_a_text_line() -> None:
    assert (
        render_text(event("listening on {where}", where="127.0.0.1:3014"))
        == "2026-11-23T14:00:00.123Z info  nuntwist.net.tcp: listening on 127.0.0.1:3014\n"
    )


def test_a_json_line() -> None:
    line = render_json(event("took {n} of {what}", n=3, what="it", extra=b"\xff", thing=object()))
    assert line.endswith("}\n")
    assert json.loads(line) == {
        "time": "2026-11-23T14:00:00.123Z",
        "level": "info",
        "logger": "nuntwist.net.tcp",
        "message": "took 3 of it",
        "fields": {"n": 3, "what": "it", "extra": "\ufffd"},
    }


def test_json_stays_json_for_odd_values() -> None:
    record = json.loads(
        render_json(event("x", inf=float("inf"), half="\ud800", none=None)),
        parse_constant=lambda name: pytest.fail(name),
    )
    assert record["fields"] == {"inf": "inf", "half": "\\ud800", "none": None}


def test_an_event_without_a_message_is_not_written() -> None:
    stream = io.StringIO()
    LineObserver(stream, render_text)(event(""))
    LineObserver(stream, render_json)(event(""))
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("level", "first"),
    [("debug", 0), ("info", 1), ("warn", 2), ("error", 3), ("critical", 4)],
)
def test_the_level_is_a_floor(level: str, first: int) -> None:
    lines = written(NodeConfig(log_level=level))
    names = ["debug", "info", "warn", "error", "critical"][first:]
    assert [line.rsplit(" ", 1)[1] for line in lines] == names


def test_what_a_process_prints_as_it_ends_always_shows() -> None:
    lines = written(NodeConfig(log_level="critical"), namespace="stderr")
    assert len(lines) == 2


def test_json_format_is_json_for_every_level() -> None:
    lines = written(NodeConfig(log_level="debug", log_format="json"))
    assert [json.loads(line)["level"] for line in lines] == [
        "debug",
        "info",
        "warn",
        "error",
        "critical",
    ]


def test_a_client_cannot_forge_a_line() -> None:
    text = "x\n2026-11-23T14:00:00.000Z info  a: b\r\x1b[2J\u2028\u202e\x85\x00"
    line = render_text(event("key {key}", key=text, log_namespace="a\nb"))
    assert line.count("\n") == 1
    assert line == (
        "2026-11-23T14:00:00.123Z info  a\\nb: key x\\n2026-11-23T14:00:00.000Z info  a: b"
        "\\r\\x1b[2J\\u2028\\u202e\\x85\\x00\n"
    )
    assert len(render_json(event("key {key}", key=text)).splitlines()) == 1


@given(st.text(alphabet=st.characters()))
def test_cleaned_text_is_one_line_and_can_be_encoded(text: str) -> None:
    assert len(clean(text + "x").splitlines()) == 1
    clean(text).encode()
    if text.isprintable():
        assert clean(text) == text


@pytest.mark.parametrize(
    "name", ["password", "pwd", "token", "db_token", "secret", "S3_SECRET_KEY"]
)
def test_secret_fields_never_show(name: str) -> None:
    e = event(f"got {{{name}}} and {{{name}!r:>10}} {{{{}}}} {{other}}", other=1, **{name: "hush"})
    assert render_text(e).endswith(": got <hidden> and <hidden> {} 1\n")
    record = json.loads(render_json(e))
    assert record["message"] == "got <hidden> and <hidden> {} 1"
    assert record["fields"] == {name: "<hidden>", "other": 1}


def test_secrets_behind_attributes_and_keys_never_show() -> None:
    config = dataclasses.replace(NodeConfig(), password="hush")
    fields = {"a": {"b": {"token": "hush", "c": 1}}}
    e = event(
        "{config.password} {config} {fields[a][b][token]} {fields}", config=config, fields=fields
    )
    assert "hush" not in render_text(e)
    assert "hush" not in render_json(e)
    assert "'c': 1" in render_text(e)
    assert fields["a"]["b"]["token"] == "hush"


def test_redact_leaves_the_rest() -> None:
    assert redact({"key": "v", "pwd": "p", "deep": {"token": "t"}}) == {
        "key": "v",
        "pwd": "<hidden>",
        "deep": {"token": "<hidden>"},
    }


def test_a_failure_shows_its_traceback_indented() -> None:
    text = render_text(event("it broke", log_failure=failure("a\nb\x1b"), log_level=LogLevel.error))
    first, *rest = text.splitlines()
    assert first == "2026-11-23T14:00:00.123Z error nuntwist.net.tcp: it broke"
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in text
    record = json.loads(render_json(event("x", log_failure=failure("a"), log_level=LogLevel.error)))
    assert record["failure"] == "ValueError: a"
    assert "Traceback" in record["traceback"]


def test_a_failure_below_error_is_one_line() -> None:
    text = render_text(event("closed", log_failure=failure("a\nb")))
    assert text.endswith("nuntwist.net.tcp: closed (ValueError: a\\nb)\n")
    assert text.count("\n") == 1
    assert "traceback" not in json.loads(render_json(event("closed", log_failure=failure("a"))))


def test_a_failure_without_words() -> None:
    text = render_text(event("", log_failure=failure("a"), log_level=LogLevel.critical))
    assert text.startswith("2026-11-23T14:00:00.123Z critical nuntwist.net.tcp: ValueError: a\n")


def test_a_broken_format_is_still_a_line() -> None:
    for message in ("{", "{nothing}", "{0}"):
        text = render_text(event(message, password="hush"))
        assert text.count("\n") == 1
        assert "hush" not in text


def test_events_of_the_older_log_module() -> None:
    stream = io.StringIO()
    publisher = LogPublisher(make_observer(NodeConfig(), stream))
    legacy = LegacyPublisher(observerPublisher=publisher, publishPublisher=publisher)
    legacy.msg("an older\nmessage")
    legacy.msg(failure=failure("a"), why="it broke", isError=1)
    first, second, *rest = stream.getvalue().splitlines()
    assert first.endswith(" info  log_legacy: an older\\nmessage")
    assert " critical log_legacy: it broke" in second
    assert [line for line in rest if "Traceback" in line] == [rest[0]]
    assert rest[-1].endswith("ValueError: a")


def shown(level: str, **event_fields: Any) -> str:
    stream = io.StringIO()
    observer: Any = make_observer(NodeConfig(log_level=level), stream)
    observer(event("it happened", **event_fields))
    return stream.getvalue()


@pytest.mark.parametrize(
    "text", ["LineFactory starting on 3014", "(TCP Port 3014 Closed)", "(UNIX Port '/s' Closed)"]
)
def test_what_twisted_says_of_ports_is_for_debugging(text: str) -> None:
    fields = {"log_namespace": "log_legacy", "log_text": text, "log_format": "{log_text}"}
    assert shown("info", **fields) == ""
    assert text in shown("debug", **fields)
    assert shown("info", **{**fields, "log_text": f"{text} and more"}) != ""


def test_what_autobahn_says_of_clients_is_for_debugging() -> None:
    fields = {"log_namespace": "autobahn.twisted.websocket.Protocol", "log_level": LogLevel.warn}
    assert shown("info", **fields) == ""
    assert shown("debug", **fields) != ""
    assert shown("info", **{**fields, "log_level": LogLevel.critical}) != ""


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("nuntwist.service.NodeService", "nuntwist.service"),
        ("twisted.scripts._twistd_unix.UnixAppLogger", "twisted.scripts"),
        ("log_legacy", "log_legacy"),
        ("Odd", "Odd"),
    ],
)
def test_a_line_names_the_module(name: str, short: str) -> None:
    assert f" info  {short}: x\n" in render_text(event("x", log_namespace=name))
