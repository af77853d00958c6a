"""Whatever bytes a client sends: nothing is logged as a failure, nothing changes, nothing grows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from nuntwist.core.limits import Limits
from nuntwist.language.commands import BY_WORD
from nuntwist.testing import Connection, FrameConnection, LineConnection, MemoryNode, client_frame

pytestmark = pytest.mark.many_cases

COUNT = 10_000
LIMIT = 600


class Watch:
    """Collects what the node logs as failures while it is used."""

    def __init__(self) -> None:
        self.failures: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        bad = event.get("log_level") in (LogLevel.error, LogLevel.critical)
        if "log_failure" in event or event.get("isError") or bad:
            self.failures.append(event)


@pytest.fixture(autouse=True)
def _nothing_is_logged_as_a_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    watch = Watch()
    globalLogPublisher.addObserver(watch)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(watch)
    if not request.node.name.startswith("test_a_failure_would_be_noticed"):
        assert watch.failures == []


class Besieged:
    """A node with some data, a client that goes on as ever, and what must not change."""

    def __init__(self) -> None:
        self.node = MemoryNode(limits=Limits(line=LIMIT))
        self.node.site.body_limit = 4 * LIMIT
        self.node.admin(
            "create-db d t", "use-db d t", "set k v", "set-safe n 3 1", "create-user ana s"
        ).close()
        self.friend = self.node.tcp()
        assert self.friend.ask("use-db d t") == "ok \n"
        assert self.friend.ask("watch k") == "ok \n"
        self.before = self.state()

    def state(self) -> object:
        """All the data, the log, and all that grows with clients."""
        node = self.node.node
        pipeline = node.pipeline
        data = {
            name: [dict(shard) for shard in database.shards]
            for name, database in node.catalogue.by_name.items()
        }
        sizes = [
            [len(d.watchers), len(d.selected), len(d.scans), len(d.arbiters), len(d.conflicts)]
            for d in node.catalogue.by_id.values()
        ]
        delivery = pipeline.delivery
        waiting = [len(delivery._queue), len(delivery._held), len(delivery._drained)]
        return data, sizes, waiting, node.oplog.last, len(pipeline.dirty)

    def check(self) -> None:
        """Nothing has changed, and the others are served."""
        assert self.friend.ask("get k") == "value v\nok \n"
        assert self.state() == self.before
        assert self.node.timers() == [] or self._only_handshakes_wait()
        assert self.node.node.counters.connections == 1 + self.open_ones()

    def _only_handshakes_wait(self) -> bool:
        self.node.clock.advance(100)
        return self.node.timers() == []

    def open_ones(self) -> int:
        """Attackers that are still connected."""
        return len(self.node.lines.clients) + len(self.node.frames.clients) - 1


def noise(chance: random.Random) -> bytes:
    """Random bytes, or words of the language mixed with them; never a way to log in."""
    kind = chance.choice([0, 1, 2, 2, 2, 2, 3])
    if kind == 0:
        return chance.randbytes(chance.randrange(60))
    if kind == 1:
        return chance.randbytes(chance.randrange(3 * LIMIT))
    words = chance.choices(WORDS, k=chance.randrange(1, 6))
    if kind == 2:
        return b" ".join(words)
    return chance.choice([b" ", b"", b";", b"\n", b"\x00"]).join(
        [*words, chance.randbytes(chance.randrange(8))]
    )


# No command that changes data can be among these: nobody here has logged in.
WORDS = [
    *BY_WORD,
    *(b"d", b"k", b"t ", b"$$token", b"$connections", b"-1", b"99999999999999999999", b"|", b"*"),
    *("é".encode(), "😀".encode(), b"\x00", b";", b"\r\n", b"\n", b"  ", b""),
]


def is_log_in(data: bytes) -> bool:
    """By chance, ``use-db d t`` may come out."""
    return b"use" in data and b"d" in data and b"t" in data and b"use-db d t" in data


# -- 10,000 random strings for each transport --


def test_random_bytes_over_tcp() -> None:
    besieged, chance = Besieged(), random.Random(1)
    client: Connection | None = None
    for number in range(COUNT):
        if client is None or client.closed or chance.random() < 0.02:
            if client is not None:
                client.close()
            client = besieged.node.tcp()
        data = noise(chance)
        if not is_log_in(data):
            client.deliver(data + b"\n" * chance.choice([0, 1, 1, 1, 1]))
            assert client.protocol._framer.pending <= LIMIT
        client.taken()
        if number % 500 == 0:
            besieged.check()
    assert client is not None
    client.deliver(b"\n")
    client.taken()
    client.deliver(b"ping\n")
    assert client.taken() == b"pong\nok \n"
    client.close()
    besieged.check()


def broken_frame(chance: random.Random, payload: bytes) -> bytes:
    """A frame with something wrong, or nothing."""
    opcode = chance.choice([0, *[1] * 30, 2, 3, 8, 9, 10, 11, 15])
    frame = bytearray(client_frame(payload, opcode, chance.randbytes(4)))
    for _ in range(chance.choice([*[0] * 20, 1, 3])):
        frame[chance.randrange(min(14, len(frame)))] = chance.randrange(256)
    return bytes(frame[: chance.choice([*[len(frame)] * 20, chance.randrange(len(frame))])])


def test_random_bytes_over_websocket() -> None:
    besieged, chance = Besieged(), random.Random(2)
    client: FrameConnection | None = None
    for number in range(COUNT):
        if client is None or client.closed or chance.random() < 0.02:
            if client is not None:
                client.close()
            client = besieged.node.ws()
        data = noise(chance)
        if is_log_in(data):
            continue
        client.deliver(data if chance.random() < 0.05 else broken_frame(chance, data))
        client.taken()
        protocol = client.protocol
        assert len(protocol._pending) + len(protocol.data) <= 4 * LIMIT
        if protocol.state != protocol.STATE_OPEN:
            client.close()
        if number % 500 == 0:
            besieged.check()
    assert client is not None
    client.close()
    besieged.check()


def test_random_bytes_as_a_websocket_handshake() -> None:
    besieged, chance = Besieged(), random.Random(3)
    for _ in range(2_000):
        client = Connection(besieged.node, besieged.node.frames)
        client.deliver(noise(chance) + b"\r\n\r\n" * chance.randrange(2))
        client.close()
    besieged.check()


def http_noise(chance: random.Random, body: bytes) -> bytes:
    method = chance.choice([*[b"POST"] * 20, b"GET", b"PUT", b"", b"\xff"])
    length = chance.choice([*[len(body)] * 20, 0, 10**9, -1])
    head = b"%b /%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        method,
        chance.choice([b"", b"", b"x?y", b"\xff", b"%00"]),
        length,
    )
    if chance.random() < 0.2:
        coded = b"%x\r\n%b\r\n0\r\n\r\n" % (max(0, len(body) + chance.randrange(-1, 2)), body)
        head, body = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", coded
    return head + body


def test_random_bytes_over_http() -> None:
    besieged, chance = Besieged(), random.Random(4)
    client: Connection | None = None
    for number in range(COUNT):
        if client is None or client.closed or chance.random() < 0.3:
            if client is not None:
                client.close()
            client = Connection(besieged.node, besieged.node.site)
        body = noise(chance)
        if is_log_in(body):
            continue
        client.deliver(body if chance.random() < 0.05 else http_noise(chance, body))
        client.taken()
        if number % 500 == 0:
            besieged.check()
    assert client is not None
    client.close()
    besieged.check()
    assert besieged.node.post("ping") == "pong\n"


@pytest.mark.parametrize("transport", ["tcp", "ws", "http"])
def test_a_failure_would_be_noticed(transport: str) -> None:
    """The tests above can fail: an exception in the road is one that they see."""

    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    watch = Watch()
    besieged = Besieged()
    besieged.node.node.pipeline.receive = broken  # type: ignore[method-assign]
    globalLogPublisher.addObserver(watch)
    try:
        seen = False
        try:
            if transport == "http":
                besieged.node.post("ping")
            else:
                client = besieged.node.tcp() if transport == "tcp" else besieged.node.ws()
                client.send("ping")
        except RuntimeError:
            seen = True
    finally:
        globalLogPublisher.removeObserver(watch)
    assert seen or watch.failures


# -- what hypothesis finds --

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(WORDS),
        st.sampled_from([b" ", b"\n", b";", b"\r\n", b"x" * LIMIT]),
    ),
    max_size=12,
)


@settings(max_examples=100)
@given(PIECES)
def test_any_pieces_over_tcp(pieces: list[bytes]) -> None:
    besieged = Besieged()
    client = besieged.node.tcp()
    if is_log_in(b"".join(pieces)):
        return
    for piece in pieces:
        client.deliver(piece)
    client.deliver(b"\n")
    lines = client.taken().decode("utf-8", "replace")
    assert lines.endswith((" \n", "ok \n"))
    assert client.ask("ping") == "pong\nok \n"
    client.close()
    besieged.check()


@settings(max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.binary(max_size=200)), max_size=8))
def test_any_frames_over_websocket(frames: list[tuple[bool, int, bytes]]) -> None:
    besieged = Besieged()
    client = besieged.node.ws()
    for final, opcode, payload in frames:
        frame = client_frame(payload, opcode)
        if not client.closed:
            client.deliver(frame if final else bytes((frame[0] & 0x7F,)) + frame[1:])
    found = client.received_frames()
    assert client._buffer == b""
    assert all(opcode in (1, 8, 10) for opcode, _ in found)
    assert 8 not in [opcode for opcode, _ in found[:-1]]
    for opcode, payload in found:
        if opcode == 1:
            payload.decode()
    client.close()
    besieged.check()


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=200), PIECES.map(b"".join)))
def test_any_body_over_http(body: bytes) -> None:
    if is_log_in(body):
        return
    besieged = Besieged()
    head, text = besieged.node.request(b"POST", body)
    assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 413 "))
    text.decode()
    besieged.check()


# -- one who has logged in --

ODD_KEYS = {
    "emoji": "😀👩‍👩‍👧",
    "control characters": "\x00\x01\x7f\x1b[31m",
    "right to left": "\u202eabc\u2066",
    "zero width": "\u200b\u200d\ufeff",
    "combining": "e\u0301",
    "comma": "a,b",
    "quotes": "\"'`\\",
    "tab": "a\tb",
    "pattern": "*",
    "carriage return inside": "a\rb",
    "semicolon inside": "a;b",
    "long": "k" * 500,
    "very long": "ü" * 2_048,
    "dollar": "$",
    "looks like a number": "-1",
    "line separators": "a\u2028b\x85c\x0bd",
}


@pytest.mark.parametrize("name", ODD_KEYS)
def test_keys_with_odd_characters_are_ordinary_keys(name: str) -> None:
    key = ODD_KEYS[name]
    node = MemoryNode()
    node.admin("create-db d t").close()
    client, watcher = node.tcp(), node.tcp()
    client.ask("use-db d t")
    watcher.ask("use-db d t")
    assert watcher.ask(f"watch {key}") == "ok \n"
    assert client.ask(f"set {key} v {key}") == "ok \n"
    assert client.ask(f"get {key} ") == f"value v {key}\nok \n"
    assert client.ask(f"set-safe {key} 7 1") == "ok \n"
    assert client.ask(f"increment {key} ") == "ok \n"
    assert client.ask(f"get-safe {key} ") == "value-version 9 2\nok \n"
    assert f",{key}" in client.ask("keys")
    assert client.ask(f"remove {key} ") == "ok \n"
    assert client.ask(f"get {key} ") == "value <Empty>\nok \n"
    assert watcher.received() == (
        f"changed {key} v {key}\nchanged-version {key} 0 v {key}\n"
        f"changed {key} 1\nchanged-version {key} 8 1\n"
        f"changed {key} 2\nchanged-version {key} 9 2\n"
        f"removed {key}\n"
    )
    assert client.ask("keys") == "keys ,$connections\nok \n"


ARGUMENTS = [
    *(b"d", b"k", b"k", b"1", b"2", b"-2", b"true", b"all", b"r *", b"$conflicts_k_1", b"win"),
    *(b"arbiter", b"pending-conflicts", b"list-dbs", b"$$user_a", b"$$permission_$a", b"$admin"),
]
LEGAL = st.text(st.characters(codec="utf-8", exclude_characters=" \n"), min_size=1, max_size=20)


def talk_over_tcp(node: MemoryNode, commands: list[str]) -> str:
    client = node.tcp()
    return "".join(client.ask(command) for command in commands)


def talk_over_websocket(node: MemoryNode, commands: list[str]) -> str:
    client = node.ws()
    return "".join("".join(client.ask(command)) for command in commands)


def is_plain_text(text: str) -> bool:
    return not text.startswith("$") and not text.endswith((";", "\r")) and ";" not in text


@settings(max_examples=100)
@given(
    key=LEGAL.filter(is_plain_text),
    value=st.text(st.characters(codec="utf-8", exclude_characters="\n;"), max_size=30).filter(
        lambda text: not text.endswith("\r")
    ),
    talk=st.sampled_from([talk_over_tcp, talk_over_websocket]),
)
def test_any_value_comes_back_as_it_was_set(
    key: str, value: str, talk: Callable[[MemoryNode, list[str]], str]
) -> None:
    node = MemoryNode()
    node.admin("create-db d t").close()
    answer = talk(node, ["use-db d t", f"set {key} {value}", f"get {key} "])
    assert answer == f"ok \nok \nvalue {value}\nok \n"


@settings(max_examples=150)
@given(
    st.sampled_from(["none", "newer", "arbiter"]),
    st.lists(
        st.builds(
            lambda command, arguments: [command, *arguments],
            st.sampled_from(list(BY_WORD)),
            st.lists(st.sampled_from(WORDS + ARGUMENTS), max_size=5),
        ),
        max_size=30,
    ),
)
def test_an_admin_may_say_anything(strategy: str, commands: list[list[bytes]]) -> None:
    """Every command of the language with odd arguments is answered, and the node goes on."""
    node = MemoryNode()
    admin = node.admin(f"create-db d t {strategy}", "use-db d t", "set k v", "arbiter")
    for words in commands:
        text = b" ".join(words).replace(b"\n", b"")
        admin.deliver(text + b"\n")
        answer = admin.taken()
        if not answer:
            # It waits for replicas that will never be there, as a write concern has asked for.
            node.clock.advance(3_600)
            answer = admin.taken()
        assert answer.endswith((b"ok \n", b" \n")), text
        assert b"internal error" not in answer, text
    assert isinstance(admin, LineConnection)
    assert admin.ask("ping") == "pong\nok \n"
    assert node.tcp().ask("ping") == "pong\nok \n"
