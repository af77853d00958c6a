"""Log events as lines: readable text for people, JSON objects for machines.

An event of ``twisted.logger`` passes a level filter, is rendered by one of two pure functions
and is written with one ``write`` to one stream.  In text an event is one line::

    2026-11-23T14:00:00.123Z info  nuntwist.net.tcp: listening on 127.0.0.1:3014

and only a failure at level error or above adds its traceback, indented, below the line.  In
JSON an event is always exactly one line.

Nothing that a client sends can forge a line: control characters are written as escapes.  And
no secret shows: a field whose name says that it is one (password, token, ...) is written as
``<hidden>``, in the message as in the fields.  (A secret inside a plain sentence cannot be
told from other words: pass it as a field, or better not at all.)
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from string import Formatter
from typing import Any, Protocol

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
    globalLogBeginner,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from nuntwist.config import NodeConfig

HIDDEN = "<hidden>"
AUDIT = "nuntwist.audit"
"""The namespace of what is written down of logins and admins (:mod:`nuntwist.core.audit`)."""
AUDIT_AGAIN_SECONDS = 60.0
"""How often at most it is told that the file for that cannot be written."""
_SECRET_NAME = re.compile(r"passw|pwd|secret|token|credential", re.IGNORECASE)
_UNSAFE = re.compile(
    # Controls, the line ends of Unicode, marks that turn the reading direction, surrogates.
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DEEPEST = 4
_CHATTY = {
    "twisted.internet": LogLevel.warn,
    "twisted.application": LogLevel.warn,
    "autobahn": LogLevel.error,
    AUDIT: LogLevel.warn,
}
"""Namespaces of libraries, and the one that has a file of its own, and the level from which they
are worth a line (debug shows all)."""
_PORT_CHATTER = re.compile(r"\S+ starting on \S+|\(\w+ Port \S+ Closed\)")


class Stream(Protocol):
    """What a log is written to: a text stream, or twisted.python.logfile.LogFile."""

    def write(self, text: str, /) -> object:
        """Take some text."""

    def flush(self) -> object:
        """Send it on."""


@implementer(ILogObserver)
class LineObserver:
    """Writes each event to a stream, flushed, as ``render`` makes it.

    :param render: event to text with its line end; the empty string is not written.
    """

    def __init__(self, stream: Stream, render: Callable[[LogEvent], str]) -> None:
        self._stream = stream
        self._render = render

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        text = self._render(event)
        if text:
            self._stream.write(text)
            self._stream.flush()


@implementer(ILogObserver)
class AuditFile:
    """A file for the events of an audit, one JSON object a line.

    It is only added to, so it may be cut from outside (``copytruncate`` of logrotate). Where it
    cannot be written the node goes on, and says so.

    :param path: it is made with mode 600.
    :param seconds: monotonic time, in seconds.
    :raise OSError: it cannot be opened.
    """

    _log = Logger()

    def __init__(self, path: str, seconds: Callable[[], float]) -> None:
        self._path, self._seconds = path, seconds
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._told_at: float | None = None
        self._lost = 0
        self._observer = LineObserver(self, render_json)
        globalLogPublisher.addObserver(self)

    def close(self) -> None:
        """No more."""
        globalLogPublisher.removeObserver(self)
        os.close(self._file)

    def __call__(self, event: LogEvent) -> None:
        """Write an event of the audit."""
        if event.get("log_namespace") == AUDIT:
            self._observer(event)

    def write(self, text: str) -> None:
        """Add a line, whole or not at all as far as the system does so."""
        try:
            os.write(self._file, text.encode())
        except OSError as error:
            self._lost += 1
            now = self._seconds()
            if self._told_at is None or now >= self._told_at + AUDIT_AGAIN_SECONDS:
                self._told_at = now
                self._log.error(
                    "the audit cannot be written to {path}: {why}; {lost} events are lost so far",
                    path=self._path,
                    why=error.strerror,
                    lost=self._lost,
                )

    def flush(self) -> None:
        """It is the system's already."""


def make_observer(config: NodeConfig, stream: Stream) -> ILogObserver:
    """Give the observer that writes what the configuration asks for.

    What other code prints on standard error (twistd hands it on as events of the logger
    ``stderr``) passes at every level: it is how a process says why it ends.
    """
    render = render_json if config.log_format == "json" else render_text
    level = LogLevel.levelWithName(config.log_level)
    predicate = LogLevelFilterPredicate(defaultLogLevel=level)
    predicate.setLogLevelForNamespace("stderr", min(level, LogLevel.error))
    if level > LogLevel.debug:
        # Libraries tell of every client that speaks another protocol.
        for namespace, lowest in _CHATTY.items():
            predicate.setLogLevelForNamespace(namespace, max(level, lowest))
    predicates = [predicate] if level == LogLevel.debug else [_no_chatter, predicate]
    return FilteringLogObserver(LineObserver(stream, render), predicates)


@provider(ILogFilterPredicate)
def _no_chatter(event: LogEvent) -> Any:
    """Leave out what Twisted says of every port: we say it once ourselves."""
    text = event.get("log_text")
    if isinstance(text, str) and _PORT_CHATTER.fullmatch(text):
        return PredicateResult.no
    return PredicateResult.maybe


def start_logging(config: NodeConfig, stream: Stream) -> None:
    """Begin logging in a process of our own (twistd begins by itself: see nuntwist.tap)."""
    globalLogBeginner.beginLoggingTo([make_observer(config, stream)], redirectStandardIO=False)


def render_text(event: LogEvent) -> str:
    """Render an event as a line, and a traceback where there is an error; ends in newline."""
    message, failure = _message(event)
    if not message and failure is None:
        return ""
    head = f"{_time(event)} {_level(event).name:<5} {clean(_short_name(_logger(event)))}: "
    if failure is None:
        return f"{head}{clean(message)}\n"
    if _level(event) < LogLevel.error:
        return (
            f"{head}{clean(f'{message} ({_summary(failure)})' if message else _summary(failure))}\n"
        )
    lines = failure.getTraceback().rstrip("\n").split("\n")
    below = "".join(f"    {clean(line)}\n" for line in lines)
    return f"{head}{clean(message or _summary(failure))}\n{below}"


def render_json(event: LogEvent) -> str:
    """Render an event as one JSON object on one line; ends in newline."""
    message, failure = _message(event)
    if not message and failure is None:
        return ""
    record: dict[str, Any] = {
        "time": _time(event),
        "level": _level(event).name,
        "logger": _logger(event),
        "message": message or _summary(failure),
    }
    fields = _fields(event)
    if fields:
        record["fields"] = fields
    if failure is not None:
        record["failure"] = _summary(failure)
        if _level(event) >= LogLevel.error:
            record["traceback"] = failure.getTraceback()
    # ASCII only: no reader can take U+2028 or the like for the end of a line.
    return json.dumps(_whole_text(record)) + "\n"


def clean(text: str) -> str:
    """Write control characters as escapes, so that text stays on its line."""
    return _UNSAFE.sub(_escape, text)


def redact(value: Any, name: str = "", depth: int = 0) -> Any:
    """Give a value, or a copy of a mapping, with everything under a secret name hidden."""
    if name and _SECRET_NAME.search(name):
        return HIDDEN
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return {key: redact(item, str(key), depth + 1) for key, item in value.items()}
    return value


def _escape(match: re.Match[str]) -> str:
    letter = match[0]
    short = _SHORT_ESCAPES.get(letter)
    code = ord(letter)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _message(event: LogEvent) -> tuple[str, Failure | None]:
    """The message with secrets hidden, and the failure, if the event has one."""
    # Events sent through twisted.python.log, whose text repeats the traceback.
    older = "log_text" in event
    failure = event.get("failure" if older else "log_failure")
    if not isinstance(failure, Failure):
        failure = None
    elif older:
        return str(event.get("why") or "Unhandled error"), failure
    shown = {
        key: value if key.startswith("log_") else redact(value, key) for key, value in event.items()
    }
    if isinstance(event.get("log_format"), str):
        shown["log_format"] = _safe_format(event["log_format"])
    return formatEvent(shown), failure


@functools.lru_cache(maxsize=1024)
def _safe_format(text: str) -> str:
    """Put HIDDEN where a format names a secret, also as an attribute: ``{config.password}``."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        return text
    if not any(name and _SECRET_NAME.search(name) for _, name, _, _ in parts):
        return text
    safe = ""
    for literal, name, spec, conversion in parts:
        safe += literal.replace("{", "{{").replace("}", "}}")
        if name is None:
            continue
        if _SECRET_NAME.search(name):
            safe += HIDDEN
        else:
            safe += (
                f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
            )
    return safe


def _fields(event: LogEvent) -> dict[str, Any]:
    """The simple values that came with the event, by name."""
    if "log_text" in event:
        return {}
    fields = {}
    for key, value in event.items():
        if key.startswith("log_"):
            continue
        safe = redact(value, key)
        if isinstance(safe, bytes):
            safe = safe.decode("utf-8", "replace")
        if isinstance(safe, float) and not math.isfinite(safe):
            safe = str(safe)
        if safe is None or isinstance(safe, str | int | float):
            fields[key] = safe
    return fields


def _whole_text(record: dict[str, Any]) -> dict[str, Any]:
    """Replace lone surrogates, which strict JSON readers refuse."""
    return {
        key: _whole_text(value)
        if isinstance(value, dict)
        else value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str)
        else value
        for key, value in record.items()
    }


def _summary(failure: Failure | None) -> str:
    if failure is None:
        return ""
    name = getattr(failure.type, "__name__", str(failure.type))
    text = failure.getErrorMessage()
    return f"{name}: {text}" if text else name


def _time(event: LogEvent) -> str:
    when = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> Any:
    return event.get("log_level") or LogLevel.info


def _logger(event: LogEvent) -> str:
    return str(event.get("log_namespace") or "-")


def _short_name(name: str) -> str:
    """A logger's name as far as it says where: without classes and private modules."""
    parts = name.split(".")
    kept = [part for part in parts if part[:1] != "_" and not part[:1].isupper()]
    return ".".join(kept) or name
