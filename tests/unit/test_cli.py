"""The command line: options, what is sent, what is printed, sentences and exit statuses."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from treq.testing import StubTreq
from twisted.internet import task
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.task import Clock
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import Request

from nuntwist import __version__, cli
from nuntwist.cli import Options, body_of, main, report
from nuntwist.cli_client import (
    AskFailed,
    ask,
    checked_host,
    is_error,
    parts_of,
    quoted,
)

HOST = "http://127.0.0.1:3013"
VALID = "valid auth\n"


class Node(Resource):
    """Answers every POST alike, and keeps what it was sent."""

    isLeaf = True

    def __init__(self, answer: bytes, code: int = 200) -> None:
        super().__init__()
        self.answer, self.code = answer, code
        self.bodies: list[bytes] = []

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        self.bodies.append(request.content.read())
        request.setResponseCode(self.code)
        if 300 <= self.code < 400:
            request.setHeader(b"location", b"/elsewhere")
        return self.answer


class Stuck:
    """A client whose request ends only when it is cancelled, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.cancelled = 0

    def post(self, url: str, /, **arguments: object) -> Deferred[Any]:
        if self.error is not None:
            return fail(self.error)
        return Deferred(self._cancel)

    def _cancel(self, deferred: Deferred[Any]) -> None:
        self.cancelled += 1
        # As Agent does: not every cancelled request fails with a CancelledError.
        deferred.errback(ConnectingCancelledError(None))


class Ending(Clock):
    """A clock that takes what to do when the reactor stops."""

    def __init__(self) -> None:
        super().__init__()
        self.before_shutdown: list[Callable[[], None]] = []

    def addSystemEventTrigger(self, phase: str, event: str, act: Callable[[], None]) -> None:
        assert (phase, event) == ("before", "shutdown")
        self.before_shutdown.append(act)


def parsed(*words: str) -> Options:
    options = Options()
    options.parseOptions(list(words))
    return options


def sentence_of(client: Any, timeout: float = 10.0) -> str:
    clock = Clock()
    asked = ask(clock, client, HOST, "auth u p; ping", timeout)
    clock.advance(timeout)
    outcome: list[Any] = []
    asked.addErrback(lambda failure: outcome.append(failure.value))
    assert isinstance(outcome[0], AskFailed)
    return str(outcome[0])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command line against a resource, with no reactor behind it."""

    def begin(resource: Resource, *words: str, **environment: str) -> int:
        stub = StubTreq(resource)
        monkeypatch.setattr(cli, "make_client", lambda *_: stub)

        def react(session: Callable[[Any], Deferred[Any]]) -> None:
            session(Ending())
            stub.flush()
            raise SystemExit(0)

        monkeypatch.setattr(task, "react", react)
        return main(words, environment)

    return begin


# -- what is printed and how it ends -----------------------------------------------------------


def test_exec_prints_the_answer_as_scripts_know_it(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    node = Node(b"valid auth\n;empty;value 1\n;unknown command: nope")
    assert run(node, "-u", "u", "-p", "p w", "exec", "use-db d t; get k; nope") == 0
    assert node.bodies == [b"auth u p w; use-db d t; get k; nope"]
    out, err = capfd.readouterr()
    assert out == 'Response "valid auth\\n;empty;value 1\\n;unknown command: nope"\n'
    assert err == ""


@pytest.mark.parametrize(
    ("answer", "strict", "status"),
    [
        (b"valid auth\n;unknown command: nope", False, 0),
        (b"valid auth\n;unknown command: nope", True, 1),
        (b"valid auth\n;error no-db-selected\n", True, 1),
        (b"valid auth\n;permission denied\n", True, 1),
        (b"valid auth\n;invalid auth\n", True, 1),
        (b"valid auth\n;invalid auth\n", False, 0),
        (b"valid auth\n;empty;value v\n;pong\n", True, 0),
        (b"valid auth\n;value a;b\n;empty", True, 0),
        (b"valid auth\n;value a;b\n;Invalid token", True, 1),
    ],
)
def test_the_status(run: Callable[..., int], answer: bytes, strict: bool, status: int) -> None:
    words = ["--strict"] if strict else []
    assert run(Node(answer), *words, "exec", "…") == status


def test_wrong_credentials_are_said_and_the_answer_is_printed(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(Node(b"invalid auth\n;Not auth"), "create-db", "-d", "d", "-t", "t") == 1
    out, err = capfd.readouterr()
    assert out == 'Response "invalid auth\\n;Not auth"\n'
    assert err == f"{HOST} does not accept this user and password.\n"


@pytest.mark.parametrize(
    ("code", "body", "sentence"),
    [
        (413, b"a body may have at most 5 bytes\n", "413: a body may have at most 5 bytes."),
        (302, b"", "302."),
        (500, b"\x1b[2Jhm.\nmore", "500: [2Jhm."),
    ],
)
def test_another_status_than_200(
    run: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    code: int,
    body: bytes,
    sentence: str,
) -> None:
    node = Node(body, code)
    assert run(node, "exec", "ping") == 1
    assert len(node.bodies) == 1
    assert capfd.readouterr() == ("", f"{HOST} answered with status {sentence}\n")


def test_the_output_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert report("valid auth\n;value ä€\n", parsed("exec", "get k")) == 0
    assert raw.getvalue().decode() == 'Response "valid auth\\n;value ä€\\n"\n'


# -- what is sent ------------------------------------------------------------------------------


def test_where_user_and_password_come_from() -> None:
    plain, given = parsed("exec", "ping"), parsed("--user", "a", "--pwd", "b", "exec", "ping")
    environment = {"NUN_USER": "eu", "NUN_PWD": "ep"}
    assert body_of(plain, {}) == "auth nun nun-pwd; ping"
    assert body_of(plain, environment) == "auth eu ep; ping"
    assert body_of(given, environment) == "auth a b; ping"
    assert body_of(plain, {"NUN_USER": "", "NUN_PWD": "ep"}) == "auth nun ep; ping"


def test_create_db() -> None:
    assert body_of(parsed("create-db", "-d", "d", "-t", "t"), {}) == (
        "auth nun nun-pwd; create-db d t"
    )
    words = ("create-db", "--db-name", "d", "--db-token", "t", "--strategy", "newer")
    assert body_of(parsed(*words), {}) == "auth nun nun-pwd; create-db d t newer"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("create-db", "-d", "a b", "-t", "t"), "name of a database must be one word"),
        (("create-db", "-d", "", "-t", "t"), "name of a database must be one word"),
        (("create-db", "-d", "d", "-t", "t;drop-db x"), "token of a database must be one word"),
        (("-u", "a b", "exec", "ping"), "user must be one word"),
        (("-p", "a;b", "exec", "ping"), "password holds a semicolon"),
        (("-p", "a ", "exec", "ping"), "password holds a semicolon"),
        (("exec", "get \udcff"), "not valid UTF-8"),
    ],
)
def test_what_http_cannot_carry_is_not_sent(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...], part: str
) -> None:
    assert main(words, {}) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "a subcommand is missing"),
        (("nope",), "nope"),
        (("--nope", "exec", "ping"), "--nope"),
        (("exec",), "exec takes one argument"),
        (("exec", "use-db", "d"), "exec takes one argument"),
        (("create-db", "-t", "t"), "--db-name"),
        (("create-db", "-d", "d"), "--db-token"),
        (("create-db", "-d"), "-d"),
        (("create-db", "-d", "d", "-t", "t", "-s", "x"), "--strategy must be"),
        (("create-db", "-d", "d", "-t", "t", "more"), "'more' is not an option"),
        (("signing-keys", "file"), "--db-name"),
        (("signing-keys", "-d", "d"), "one FILE, or --remove"),
        (("signing-keys", "-d", "d", "a", "b"), "one FILE, or --remove"),
        (("signing-keys", "-d", "d", "--remove", "a"), "one FILE, or --remove"),
        (("start", "more"), "'more' is not an option"),
        (("--timeout", "0", "exec", "ping"), "--timeout must be"),
        (("--timeout", "inf", "exec", "ping"), "--timeout must be"),
        (("--timeout", "soon", "exec", "ping"), "--timeout must be"),
        (("help", "nope"), "no subcommand 'nope'"),
        (("help", "exec", "start"), "one subcommand"),
        (("-h", "localhost:3013", "exec", "ping"), "is not the URL of a node"),
    ],
)
def test_wrong_usage_is_one_sentence(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...], part: str
) -> None:
    assert main(words, {}) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [("-V",), ("--version",), ("exec", "--version")])
def test_version(capfd: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words, {})
    assert ended.value.code == 0
    assert capfd.readouterr() == (f"nun-db {__version__}\n", "")


@pytest.mark.parametrize("topic", ["start", "create-db", "exec", "signing-keys", "help"])
def test_help_and_its_subcommand_say_the_same(
    capfd: pytest.CaptureFixture[str], topic: str
) -> None:
    assert main(("help", topic), {}) == 0
    explained = capfd.readouterr().out
    assert explained.startswith(f"Usage: nun-db [options] {topic} ")
    with pytest.raises(SystemExit) as ended:
        main((topic, "--help"), {})
    assert ended.value.code == 0
    assert capfd.readouterr().out == explained


def test_help_lists_all(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(("help",), {}) == 0
    out = capfd.readouterr().out
    for word in ("-u, --user", "-p, --pwd", "-h, --host", "--strict", "--ca-file", "-V, "):
        assert word in out
    for name in ("start", "create-db", "exec", "help"):
        assert f"    {name} " in out


@pytest.mark.parametrize(
    "host", ["http://h", "https://h:1/path", "http://[::1]:3013", "http://bücher.example"]
)
def test_hosts(host: str) -> None:
    assert checked_host(host) == host


@pytest.mark.parametrize(
    "host",
    [
        *("", "h", "h:1", "ftp://h", "http://", "http://h:x", "http://h:70000", "http://h:0"),
        *("http://a b", "http://h/\n", "http://[::1", "http://h\udcff", "http://u:p@h"),
        *("http://[::1]/ä", "http://[x]", "http:///path"),
    ],
)
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(AskFailed) as refused:
        checked_host(host)
    assert str(refused.value).count("\n") == 0


# -- start -------------------------------------------------------------------------------------


def test_start_becomes_twistd(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["/bin/nun-db", "-p", "secret", "start"])
    monkeypatch.setattr("twisted.scripts.twistd.run", lambda: seen.append(sys.argv))
    environment = {"NUN_USER": "old", "KEPT": "1"}
    words = ("-u", "u", "-p", "secret", "start", "-t", "127.0.0.1:1", "-w", "off", "-h", "")
    more = ("-r", "a:1,b:2", "-e", "me:3", "--dbs-dir", "x y", "--log-level=debug")
    assert main((*words, *more, "--log-format", "json"), environment) == 0
    (argv,) = seen
    assert argv[:4] == ["/bin/nun-db", "--nodaemon", "--pidfile=", "nundb"]
    assert sorted(argv[4:]) == [
        "--dbs-dir=x y",
        "--external-address=me:3",
        "--http-address=",
        "--log-format=json",
        "--log-level=debug",
        "--replicate-address=a:1,b:2",
        "--tcp-address=127.0.0.1:1",
        "--ws-address=off",
    ]
    assert environment == {"NUN_USER": "u", "NUN_PWD": "secret", "KEPT": "1"}


def test_start_takes_no_password_of_its_own() -> None:
    with pytest.raises(usage.UsageError):
        parsed("start", "--pwd", "x")


# -- no answer ---------------------------------------------------------------------------------


def test_a_time_out() -> None:
    stuck = Stuck()
    assert sentence_of(stuck, 2.5) == f"No answer from {HOST} within 2.5 s."
    assert stuck.cancelled == 1


def wrapped(error: Exception) -> Exception:
    return ResponseNeverReceived([Failure(error)])


UNTRUSTED = TLSError([("SSL routines", "", "certificate verify failed")])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionRefusedError(111), f"Cannot reach {HOST}: Connection refused."),
        (ConnectionRefusedError(string="no way"), f"Cannot reach {HOST}: "),
        (DNSLookupError("x"), f"Cannot reach {HOST}: its name is not known."),
        (wrapped(ConnectionDone()), f"{HOST} closed the connection before"),
        (
            ResponseNeverReceived([Failure(ConnectionDone()), Failure(ValueError("cut"))]),
            f"{HOST} closed the connection before",
        ),
        (wrapped(ValueError("not HTTP")), f"{HOST} did not answer in HTTP."),
        (wrapped(UNTRUSTED), f"The certificate of {HOST} is not trusted; --ca-file"),
        (wrapped(VerificationError([])), f"The certificate of {HOST} is for another name."),
        (
            wrapped(TLSError([("SSL routines", "", "wrong version number")])),
            f"Cannot speak TLS with {HOST}: wrong version number.",
        ),
        (wrapped(TLSError([])), f"Cannot speak TLS with {HOST}."),
    ],
)
def test_what_is_in_the_way_is_one_sentence(error: Exception, sentence: str) -> None:
    said = sentence_of(Stuck(error))
    assert said.startswith(sentence)
    assert said.endswith(".")
    assert "\n" not in said


def test_an_interrupted_request(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def react(session: Callable[[Any], Deferred[Any]]) -> None:
        reactor = Ending()
        asked = session(reactor)
        for act in reactor.before_shutdown:
            act()
        # Then the connection goes, which must not be what is said.
        asked.cancel()
        raise SystemExit(0)

    monkeypatch.setattr(cli, "make_client", lambda *_: Stuck())
    monkeypatch.setattr(task, "react", react)
    assert main(("exec", "ping"), {}) == 1
    assert capfd.readouterr() == ("", "Interrupted before there was an answer.\n")


# -- the answer --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ("", []),
        (VALID, [VALID]),
        ("valid auth\n;empty;value 1\n;nope", [VALID, "empty", "value 1\n", "nope"]),
        ("value a;b\n;x y;value \n", ["value a;b\n", "x y", "value \n"]),
        ("keys ,a;b,c\n;pong\n", ["keys ,a;b,c\n", "pong\n"]),
        ("dbs-list \na;b : none\n\n;empty", ["dbs-list \na;b : none\n\n", "empty"]),
        ("value-version 1 a;b\n", ["value-version 1 a;b\n"]),
        ("value a;b;value c\n;value d;e", ["value a;b;value c\n", "value d", "e"]),
        ("value a;b\n;\n", ["value a;b\n", "\n"]),
        ("value a\nb;c\n", ["value a\nb;c\n"]),
    ],
)
def test_parts(answer: str, parts: list[str]) -> None:
    assert list(parts_of(answer)) == parts


def test_parts_without_an_end_are_found_in_the_time_they_take() -> None:
    """With a search to the end for each of them this would take an hour."""
    assert len(list(parts_of("value a;" * 200_000))) == 200_000


def test_errors() -> None:
    for part in ("Not auth", "invalid auth\n", "permission denied\n", "error no-db-selected\n"):
        assert is_error(part)
    for part in ("empty", VALID, "value error\n", "keys \n", "create-db success\n"):
        assert not is_error(part)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("valid auth\n;empty", r'"valid auth\n;empty"'),
        ("a\"b\\c'd", r""""a\"b\\c'd\"""".removesuffix(r"\"") + '"'),
        ("\t\r\0\x01\x1b\x7f", r'"\t\r\0\u{1}\u{1b}\u{7f}"'),
        ("ä€ 中😀", '"ä€ 中😀"'),
        # What joins the letter before it, spaces other than the plain one, what is not seen.
        ("e\u0301 \u00a0\u200b\u200d\ufe0f\u2028\ufeff", None),
        ("\ue000\U000e0001\uff9e", r'"\u{e000}\u{e0001}\u{ff9e}"'),
    ],
)
def test_quoting(text: str, written: str | None) -> None:
    if written is None:
        written = r'"e\u{301} \u{a0}\u{200b}\u{200d}\u{fe0f}\u{2028}\u{feff}"'
    assert quoted(text) == written
