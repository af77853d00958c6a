"""HTTP clients: one part a command, limits, and what is left behind."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred

from nuntwist.core.limits import Limits
from nuntwist.net.http_answer import PLAIN_TEXT
from nuntwist.net.http_channel import TOO_LATE
from nuntwist.oplog.memory import MemoryOplog
from nuntwist.testing import Connection, LineConnection, MemoryNode
from nuntwist.values import Epoch, Op

LIMIT = 2_000


@pytest.fixture
def node() -> MemoryNode:
    node = MemoryNode(limits=Limits(line=1_000))
    node.admin("create-db d t").close()
    node.site.body_limit = LIMIT
    return node


def watcher(node: MemoryNode, key: str) -> LineConnection:
    client = node.tcp()
    client.send(f"use-db d t\nwatch {key}")
    client.received()
    return client


def post_bytes(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def chunked(*chunks: bytes) -> bytes:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + coded


# -- answers --


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("auth nun nun-pwd", "valid auth\n"),
        ("auth nun wrong", "invalid auth\n"),
        ("use-db d t; set k v; get k", "empty;empty;value v\n"),
        ("use-db d t;set k  a b ;get k", "empty;empty;value  a b\n"),
        (" ; use-db d t ;\n get k\r\n;;", "empty;value <Empty>\n"),
        ("get k", "error no-db-selected\n"),
        ("use-db d wrong; get k", "Invalid token;error no-db-selected\n"),
        ("use-db d t; get", "empty;get must contain a key"),
        ("use-db d t; get $$token", "empty;To read security keys you must auth as an admin!"),
        ("use-db d t; keys", "empty;keys ,$connections\n"),
        ("use-db d t; get $connections", "empty;value 1\n"),
        ("use-db d t; watch k; set k v", "empty;empty;changed k v\n"),
        ("nope; ping", "unknown command: nope;pong\n"),
        ("use-db d t; set é ü; get é", "empty;empty;value ü\n"),
        ("create-db e t", "Not auth"),
        ("auth nun nun-pwd; create-db e t; use-db e t; set a 1; get a",
         "valid auth\n;create-db success\n;empty;empty;value 1\n"),
        ("auth nun nun-pwd; debug process-info", "valid auth\n;process-info \nprocess_id: "
         "1767225600000\n"),
        ("", ""),
        (";", ""),
        ("  \n ", ""),
    ],
)  # fmt: skip
def test_answers(node: MemoryNode, body: str, answer: str) -> None:
    head, text = node.request(b"POST", body)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncontent-type: text/plain" in head.lower()
    assert b"\r\ncontent-length: %d" % len(text) in head.lower()
    assert text.decode() == answer


def test_any_path_takes_commands(node: MemoryNode) -> None:
    head, text = node.request(b"POST", "ping", path=b"/some/where?x=1")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert text == b"pong\n"


def test_an_empty_body_is_answered_however_often_it_comes(node: MemoryNode) -> None:
    for _ in range(300):
        assert node.request(b"POST", "")[0].startswith(b"HTTP/1.1 200 ")


def test_each_request_is_a_session_of_its_own(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(post_bytes(b"auth nun nun-pwd; use-db d t; set k 1"))
    assert connection.taken().endswith(b"\r\n\r\nvalid auth\n;empty;empty")
    connection.deliver(post_bytes(b"get k; cluster-state; use-db d t; get k"))
    assert connection.taken().endswith(b"\r\n\r\nerror no-db-selected\n;Not auth;empty;value 1\n")
    assert not connection.closed


def test_requests_in_flight_are_answered_in_order(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(post_bytes(b"use-db d t; set k 1") + post_bytes(b"use-db d t; get k"))
    first, second = connection.taken().split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.endswith(b"\r\n\r\nempty;empty")
    assert second.endswith(b"\r\n\r\nempty;value 1\n")


def test_a_body_may_come_in_pieces(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    for byte in post_bytes("use-db d t; set é ü; get é".encode()):
        connection.deliver(bytes((byte,)))
    assert connection.taken().decode().endswith("\r\n\r\nempty;empty;value ü\n")
    connection.deliver(chunked(b"use-db d t; g", b"et \xc3", b"\xa9") + b"0\r\n\r\n")
    assert connection.taken().decode().endswith("\r\n\r\nempty;value ü\n")


def test_invalid_utf_8_is_refused_by_the_command(node: MemoryNode) -> None:
    head, text = node.request(b"POST", b"use-db d t; set k \xff; get k")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert text == b"empty;command is not valid UTF-8;value <Empty>\n"


# -- limits --


def assert_guarded(answer: bytes) -> None:
    """An answer says what a browser may do with it, and not what it was made by."""
    head = answer.partition(b"\r\n\r\n")[0].lower() + b"\r\n"
    for name, value in (*PLAIN_TEXT, (b"server", b"nuntwist")):
        assert b"\r\n%b: %b\r\n" % (name, value) in head
    assert b"twisted/" not in head
    assert b"twistedweb" not in head


def test_every_answer_says_what_a_browser_may_do_with_it(node: MemoryNode) -> None:
    for data in (
        post_bytes(b"ping"),
        b"GET /elsewhere HTTP/1.1\r\n\r\n",
        b"PUT / HTTP/1.1\r\n\r\n",
        post_bytes(b"x" * (LIMIT + 1)),
    ):
        connection = Connection(node, node.site)
        connection.deliver(data)
        assert_guarded(connection.taken())
    assert_guarded(TOO_LATE)


def refused(connection: Connection) -> None:
    """The connection got one answer, a 413 with a reason, and is closed."""
    answer = connection.taken()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"a body may have at most %d bytes\n" % LIMIT)
    assert connection.closed


def test_a_body_over_the_limit_is_refused_before_it_comes(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (LIMIT + 1))
    refused(connection)


def test_a_body_over_the_limit_is_refused_when_it_has_come(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(post_bytes(b"use-db d t; set k v;" + b" " * LIMIT))
    refused(connection)
    assert node.post("use-db d t; get k") == "empty;value <Empty>\n"


def test_a_chunked_body_over_the_limit_is_refused_and_nothing_of_it_is_run(
    node: MemoryNode,
) -> None:
    start = chunked(b"use-db d t; set k v; ")
    for data in (
        start + b"%x\r\n%b\r\n0\r\n\r\n" % (LIMIT, b" " * LIMIT),
        start + b"800\r\n" + b" " * 2048,
    ):
        connection = Connection(node, node.site)
        connection.deliver(data)
        refused(connection)
        connection = Connection(node, node.site)
        for at in range(0, len(data), 100):
            if not connection.closed:
                connection.deliver(data[at : at + 100])
        refused(connection)
    assert node.post("use-db d t; get k") == "empty;value <Empty>\n"


def test_a_body_at_the_limit_is_taken(node: MemoryNode) -> None:
    body = b"ping;" + b" " * (LIMIT - 5)
    assert node.request(b"POST", body)[1] == b"pong\n"


def test_a_command_over_the_limit_is_refused_in_its_place(node: MemoryNode) -> None:
    answer = node.post("ping; set k " + "x" * 1_000 + "; ping")
    assert answer == "pong\n;command too long: the limit is 1000 bytes;pong\n"


def test_an_answer_over_the_limit_is_refused_and_not_kept() -> None:
    node = MemoryNode(limits=Limits(output_limit=20_000, output_high_water=5_000))
    node.admin("create-db d t").close()
    node.post("use-db d t; set k " + "x" * 3_000)
    other = watcher(node, "$connections")
    connection = Connection(node, node.site)
    connection.deliver(post_bytes(b"use-db d t" + b"; get k" * 500 + b"; set done 1"))
    head, _, text = connection.taken().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert text == b"the answer has over 20000 bytes: ask for less at once\n"
    assert other.received().endswith("changed-version $connections 4 1\n")
    assert node.post("use-db d t; get done") == "empty;value <Empty>\n"
    assert node.node.counters.connections == 1
    connection.deliver(post_bytes(b"ping"))
    assert connection.taken().endswith(b"\r\n\r\npong\n")


def test_a_long_listing_over_the_limit_is_given_up() -> None:
    node = MemoryNode(limits=Limits(output_limit=20_000, keys_at_once=10))
    node.admin("create-db d t").close()
    writer = watcher(node, "nothing")
    writer.send("\n".join(f"set key-number-{number} 1" for number in range(5_000)))
    head, _ = node.request(b"POST", "use-db d t; keys")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert node.node.catalogue.by_name[b"d"].scans == []


# -- what is not POST --


def test_the_page(node: MemoryNode) -> None:
    head, body = node.request(b"GET")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nContent-Type: text/html; charset=utf-8" in head
    assert b"\r\nContent-Security-Policy: default-src 'none'; " in head
    assert body.lower().startswith(b"<!doctype html>")
    empty_head, empty = node.request(b"HEAD")
    assert empty == b""
    assert b"Content-Length: %d" % len(body) in empty_head


def test_nothing_is_anywhere_else(node: MemoryNode) -> None:
    for path in (b"/favicon.ico", b"/index.html", b"//", b"/../etc/passwd"):
        head, body = node.request(b"GET", path=path)
        assert head.startswith(b"HTTP/1.1 404 "), path
        assert body == b"nothing here: POST commands, or GET / for a page\n"
        assert node.request(b"HEAD", path=path)[0].startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"FOO"])
def test_other_methods_are_refused(node: MemoryNode, method: bytes) -> None:
    head, body = node.request(method, "use-db d t; set k v")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET, HEAD, POST" in head
    assert b"<" not in body
    assert node.post("use-db d t; get k") == "empty;value <Empty>\n"


# -- the end of a request --


def test_connections_falls_at_the_end_of_the_request(node: MemoryNode) -> None:
    other = watcher(node, "$connections")
    assert node.post("use-db d t; get $connections; watch k") == "empty;value 2\n;empty"
    assert other.received().splitlines()[1::2] == [
        "changed-version $connections 1 2",
        "changed-version $connections 2 1",
    ]
    database = node.node.catalogue.by_name[b"d"]
    assert set(database.watchers) == {b"$connections"}
    assert len(database.selected) == 1


class LateOplog(MemoryOplog):
    """A log that is durable when told.

    :ivar late: the Deferreds of its appends; None while it is durable at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Deferred[None]] | None = None

    def append(self, epoch: Epoch, ops: Sequence[Op]) -> Deferred[None] | None:
        super().append(epoch, ops)
        if self.late is None:
            return None
        self.late.append(Deferred())
        return self.late[-1]


def test_a_request_is_answered_when_its_writes_are_durable() -> None:
    oplog = LateOplog()
    node = MemoryNode(oplog)
    node.admin("create-db d t").close()
    oplog.late = []
    connection = Connection(node, node.site)
    connection.deliver(post_bytes(b"use-db d t; set k 1; get k"))
    assert connection.taken() == b""
    oplog.late[0].callback(None)
    node.settle()
    assert connection.taken().endswith(b"\r\n\r\nempty;empty;value 1\n")


def test_a_client_that_goes_away_midway() -> None:
    oplog = LateOplog()
    node = MemoryNode(oplog)
    node.admin("create-db d t").close()
    other = watcher(node, "$connections")
    oplog.late = []
    connection = Connection(node, node.site)
    connection.deliver(post_bytes(b"use-db d t; watch k; set k 1; get k"))
    connection.close()
    assert other.received().endswith("changed-version $connections 2 1\n")
    oplog.late[0].callback(None)
    node.settle()
    assert other.ask("get k") == "value 1\nok \n"
    assert node.node.counters.connections == 1
    assert set(node.node.catalogue.by_name[b"d"].watchers) == {b"$connections"}


def test_a_client_that_goes_away_in_the_middle_of_a_body(node: MemoryNode) -> None:
    connection = Connection(node, node.site)
    connection.deliver(post_bytes(b"use-db d t; set k 1")[:-3])
    connection.close()
    assert node.post("use-db d t; get k") == "empty;value <Empty>\n"
    assert node.node.counters.connections == 0


@pytest.mark.parametrize("digits", [21, 5_000])
def test_a_length_of_too_many_digits_is_a_bad_request(digits: int) -> None:
    node = MemoryNode()
    connection = Connection(node, node.site)
    connection.deliver(b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * digits + b"\r\n\r\nping")
    assert_guarded(answer := connection.taken())
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\na length of a body has too many digits\n")
    assert connection.closed
