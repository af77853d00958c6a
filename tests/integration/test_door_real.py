"""The door of a real node: who is slow, who comes through a proxy, nodes and certificates."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
import stat
import struct
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.integration.certificates import Authority
from tests.integration.conftest import Start
from tests.integration.harness import (
    ANY_PORT,
    LIMIT,
    PASSWORD,
    USER,
    Frames,
    Lines,
    Process,
    no_trace_of_trouble,
    over_tls,
    read_to_end,
    run_to_end,
    wait_until,
)

KINDS = {"TCP": "NUN_TCP_ADDR", "WebSocket": "NUN_WS_ADDR", "HTTP": "NUN_HTTP_ADDR"}


def counters(node: Process) -> dict[str, int]:
    """What a node has counted, as an admin on a port without TLS sees it."""
    text = node.admin("cluster-state json")
    found: dict[str, int] = json.loads(text[text.index("{") :])["counters"]
    return found


def heard(connection: socket.socket) -> bytes:
    """What comes until the node ends the connection, as roughly as it likes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            parts.append(data)
    return b"".join(parts)


def tls_endpoint(place: Path) -> str:
    key, cert = Authority(place / "ca").issue(place / "files")
    return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={cert}"


# -- who is slow -----------------------------------------------------------------------------------


def test_a_handshake_over_tls_that_does_not_come(start: Start, tmp_path: Path) -> None:
    secured = dict.fromkeys(KINDS.values(), tls_endpoint(tmp_path))
    node = start(variables={**secured, "NUN_HANDSHAKE_TIMEOUT": "1"})
    began = time.monotonic()
    silent = [socket.create_connection(node.address(kind), LIMIT) for kind in KINDS]
    slow = [socket.create_connection(node.address(kind), LIMIT) for kind in KINDS]
    for connection in slow:
        # The head of a record that does not come.
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")
    late, good = 6, None
    while good is None:
        try:
            good = Lines(over_tls(socket.create_connection(node.address("TCP"), LIMIT)))
        except (OSError, AssertionError):
            # On a machine that stands still for a second it is late itself.
            late += 1
            assert late < 20
    for connection in silent + slow:
        assert heard(connection) == b""
        connection.close()
    assert time.monotonic() - began > 0.9
    good.ask(f"auth {USER} {PASSWORD}")
    told = json.loads(good.ask("cluster-state json")[0].partition(b" ")[2])
    assert told["counters"]["late_handshakes"] == late
    good.close()
    assert node.log.count("NUN_HANDSHAKE_TIMEOUT") == 1


def test_commands_that_do_not_end(start: Start) -> None:
    node = start(variables={"NUN_COMMAND_TIMEOUT": "1", "NUN_IDLE_TIMEOUT": "0"})
    line, frames, watcher = node.tcp(), node.ws(), node.tcp()
    line.send(b"set k ")
    frames.socket.sendall(b"\x81\xfe\x01\x00abcd")
    half = socket.create_connection(node.address("HTTP"), LIMIT)
    half.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nping")
    assert line.rest() == b"error a command that has begun must end within 1 s \n"
    ((opcode, payload),) = frames.rest()
    assert (opcode, payload) == (8, b"\x03\xf0a message that has begun must end within 1 s")
    assert read_to_end(half).startswith(b"HTTP/1.1 408 ")
    assert watcher.ask("ping") == [b"pong\n", b"ok \n"]
    assert counters(node)["late_commands"] == 3


def test_a_rate_slows_and_loses_nothing(start: Start) -> None:
    node = start(variables={"NUN_COMMAND_RATE": "200"})
    client, other = node.tcp(), node.tcp()
    began = time.monotonic()
    client.send(b"ping\n" * 500)
    for _ in range(500):
        assert client.answer() == [b"pong\n", b"ok \n"]
    assert time.monotonic() - began > 1.2
    slowed = counters(node)["slowed"]
    assert slowed >= 1
    # Nobody else waits for it: it takes ten seconds.
    began = time.monotonic()
    client.send(b"ping\n" * 2_000)
    wait_until(lambda: counters(node)["slowed"] > slowed, "it to be slowed")
    assert other.ask("ping") == [b"pong\n", b"ok \n"]
    assert time.monotonic() - began < 8.0
    # A stop does not wait for the rate.
    node.send_signal(signal.SIGTERM)
    assert client.rest().count(b"pong\n") == 2_000
    assert node.wait() == 0
    no_trace_of_trouble(node.log, allowed=["NUN_COMMAND_RATE"])


# -- proxies ---------------------------------------------------------------------------------------


def introduced(address: tuple[str, int], client: str, version: int = 1) -> socket.socket:
    """Connect as a proxy does for a client."""
    connection = socket.create_connection(address, LIMIT)
    if version == 1:
        connection.sendall(f"PROXY TCP4 {client} 127.0.0.1 4711 3014\r\n".encode())
    else:
        ends = socket.inet_aton(client) + socket.inet_aton("127.0.0.1")
        head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", 12)
        connection.sendall(head + ends + struct.pack(">HH", 4711, 3014))
    return connection


def is_answered(connection: socket.socket) -> bool:
    """Whether a connection is let in."""
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"ping\n")
        connection.shutdown(socket.SHUT_WR)
        return b"pong\n" in heard(connection)
    return False


def request(body: str) -> bytes:
    """A POST, the last one on its connection."""
    head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def audited(path: Path) -> set[str]:
    """From where there were logins."""
    return {str(json.loads(line)["fields"]["peer"]) for line in path.read_text().splitlines()}


def test_clients_that_a_proxy_introduces(start: Start, tmp_path: Path) -> None:
    """On every kind of port, with TLS too; each has its own address in the audit."""
    secured = tls_endpoint(tmp_path)
    audit = tmp_path / "audit"
    node = start(
        variables={
            "NUN_TCP_ADDR": f"haproxy:{ANY_PORT}",
            "NUN_WS_ADDR": f"haproxy:{secured}",
            "NUN_HTTP_ADDR": f"haproxy:{ANY_PORT}",
            "NUN_TRUSTED_PROXIES": "127.0.0.1",
            "NUN_MAX_CONNECTIONS_PER_ADDRESS": "2",
            "NUN_AUDIT_FILE": str(audit),
        }
    )
    login = f"auth {USER} {PASSWORD}"
    lines = [Lines(introduced(node.address("TCP"), "203.0.113.1", n)) for n in (1, 2)]
    for one in lines:
        assert one.ask(login)[0] == b"valid auth\n"
    with introduced(node.address("TCP"), "203.0.113.1") as third:
        third.sendall(b"ping\n")
        assert b"pong" not in heard(third)
    lines.pop().close()
    wait_until(lambda: "refused" in node.log, "a line in the log")
    frames = Frames(over_tls(introduced(node.address("WebSocket"), "203.0.113.2", 2)))
    assert frames.ask(login)[0] == b"valid auth\n"
    with introduced(node.address("HTTP"), "203.0.113.3") as connection:
        connection.sendall(request(login))
        assert read_to_end(connection).endswith(b"valid auth\n")
    # Who says nothing, or comes without a header, is not heard.
    with socket.create_connection(node.address("TCP"), LIMIT) as stranger:
        stranger.sendall(b"ping\n")
        assert heard(stranger) == b""
    wait_until(
        lambda: is_answered(introduced(node.address("TCP"), "203.0.113.1")),
        "room for another one of that address",
    )
    told = audited(audit)
    assert {one.partition(":")[0] for one in told} == {f"203.0.113.{n}" for n in (1, 2, 3)}
    frames.close()
    assert node.stop() == 0


HANDED_OVER = """
import os, socket, sys
kind, address, *command = sys.argv[1:]
if kind == "unix":
    made = socket.socket(socket.AF_UNIX)
    made.bind(address)
    made.listen()
else:
    made = socket.create_server(("127.0.0.1", 0))
if made.fileno() != 3:
    os.dup2(made.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="nun", LISTEN_PID=str(os.getpid()))
os.execvp(command[0], command)
"""
"""Opens a socket and hands it to a command, as systemd does."""


def over_unix(path: Path, header: bytes) -> socket.socket:
    """Connect as a proxy on this machine does."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LIMIT)
    connection.connect(str(path))
    connection.sendall(header)
    return connection


def named(client: str) -> bytes:
    """The header for a client."""
    return b"PROXY TCP4 %b 127.0.0.1 4711 3014\r\n" % client.encode()


def test_clients_that_a_proxy_introduces_over_a_unix_socket(tmp_path: Path) -> None:
    """Of the node's own and of one that systemd has opened; each with its own address."""
    with tempfile.TemporaryDirectory(prefix="nuntwist-") as short:
        lines, frames, requests = (Path(short, name) for name in ("t", "w", "h"))
        audit = tmp_path / "audit"
        node = Process(
            tmp_path,
            before=(sys.executable, "-c", HANDED_OVER, "unix", str(lines)),
            variables={
                "NUN_TCP_ADDR": "haproxy:systemd:domain=UNIX:index=0",
                "NUN_WS_ADDR": f"haproxy:unix:{frames}:mode=660",
                "NUN_HTTP_ADDR": f"haproxy:unix:{requests},{ANY_PORT}",
                "NUN_TRUSTED_PROXIES": "unix",
                "NUN_MAX_CONNECTIONS_PER_ADDRESS": "1",
                "NUN_AUDIT_FILE": str(audit),
            },
        )
        login = f"auth {USER} {PASSWORD}"
        with node:
            for path in (lines, frames, requests):
                assert re.search(rf"listening for \w+ on unix:{path}$", node.log, re.MULTILINE)
            assert stat.S_IMODE(frames.stat().st_mode) == 0o660
            first = Lines(over_unix(lines, named("203.0.113.1")))
            assert first.ask(login)[0] == b"valid auth\n"
            with over_unix(lines, named("203.0.113.1") + b"ping\n") as second:
                assert b"pong" not in heard(second)
            with Frames(over_unix(frames, named("203.0.113.2"))) as client:
                assert client.ask(login)[0] == b"valid auth\n"
            with over_unix(requests, named("203.0.113.3")) as connection:
                connection.sendall(request(login))
                assert read_to_end(connection).endswith(b"valid auth\n")
            # A check of the proxy itself, and who is none.
            with Lines(over_unix(lines, b"PROXY UNKNOWN\r\n")) as check:
                assert check.ask(login)[0] == b"valid auth\n"
            with over_unix(lines, b"ping\n") as stranger:
                assert heard(stranger) == b""
            peers = {one.partition(":")[0] for one in audited(audit)}
            assert peers == {*(f"203.0.113.{n}" for n in (1, 2, 3)), "unix"}
            counted = counters(node)
            assert (counted["proxies_refused"], counted["refused_connections"]) == (1, 1)
            assert "the last one that of unix: no header of the PROXY protocol (it does" in node.log
            first.close()

            wait_until(
                lambda: is_answered(over_unix(lines, named("203.0.113.1"))),
                "room for another one of that address",
            )
            assert node.stop() == 0
            no_trace_of_trouble(node.log)


def test_a_socket_of_another_domain_is_refused(tmp_path: Path) -> None:
    status, _, errors = run_to_end(
        cwd=tmp_path,
        before=(sys.executable, "-c", HANDED_OVER, "tcp", "-"),
        NUN_USER=USER,
        NUN_PWD=PASSWORD,
        NUN_TCP_ADDR="haproxy:systemd:domain=UNIX:index=0",
        NUN_WS_ADDR="off",
        NUN_HTTP_ADDR="off",
        NUN_TRUSTED_PROXIES="unix",
    )
    assert status == 1
    assert (
        "Cannot listen on haproxy:systemd:domain=UNIX:index=0: the socket that was handed over is"
        " one of domain INET, not UNIX."
    ) in errors
    assert "Traceback" not in errors


def test_a_socket_that_systemd_has_opened_is_counted_too(tmp_path: Path) -> None:
    node = Process(
        tmp_path,
        before=(sys.executable, "-c", HANDED_OVER, "tcp", "-"),
        variables={
            "NUN_TCP_ADDR": "systemd:domain=INET:name=nun",
            "NUN_MAX_CONNECTIONS_PER_ADDRESS": "2",
        },
    )
    with node, node.tcp() as one, node.tcp() as other, node.tcp() as over:
        assert one.ask("ping") == other.ask("ping") == [b"pong\n", b"ok \n"]
        over.send(b"ping\n")
        assert over.rest() == b"error there are too many connections \n"


def test_whoever_is_no_proxy_is_not_heard(start: Start) -> None:
    node = start(
        variables={"NUN_TCP_ADDR": f"haproxy:{ANY_PORT}", "NUN_TRUSTED_PROXIES": "10.9.8.7"}
    )
    with introduced(node.address("TCP"), "203.0.113.1") as stranger:
        assert heard(stranger) == b""
    assert counters(node)["proxies_refused"] == 1
    assert "127.0.0.1, which is not in NUN_TRUSTED_PROXIES" in node.log


@pytest.mark.parametrize("trusted", [True, False])
def test_a_forwarded_header(start: Start, tmp_path: Path, trusted: bool) -> None:
    audit = tmp_path / "audit"
    node = start(
        variables={
            "NUN_TRUSTED_PROXIES": "127.0.0.1" if trusted else "10.9.8.7",
            "NUN_AUDIT_FILE": str(audit),
        }
    )
    connection = http.client.HTTPConnection(*node.address("HTTP"), timeout=LIMIT)
    headers = {"X-Forwarded-For": "6.6.6.6, 2001:db8::7"}
    connection.request("POST", "/", f"auth {USER} {PASSWORD}", headers)
    assert connection.getresponse().read() == b"valid auth\n"
    assert audited(audit) == {"2001:db8::7" if trusted else "127.0.0.1"}


# -- nodes with certificates -----------------------------------------------------------------------


def test_a_set_that_wants_certificates(start: Start, tmp_path: Path) -> None:
    own, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other")
    key, cert = own.issue(tmp_path / "node")
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={cert}"
    node = start(
        variables={
            "NUN_TCP_ADDR": endpoint,
            "NUN_PEER_CA": str(own.file),
            "NUN_REPLICATE_ADDR": "127.0.0.1:1",
        }
    )

    def knock(files: tuple[Path, Path] | None) -> bytes:
        """Begin as a node; what comes after the greeting."""
        context = ssl.create_default_context(cafile=str(own.file))
        if files is not None:
            context.load_cert_chain(files[1], files[0])
        plain = socket.create_connection(node.address("TCP"), LIMIT)
        client = Lines(context.wrap_socket(plain, server_hostname="127.0.0.1"))
        client.send(b"peer 1 %016x %032x\n" % (7, 7))
        line = client.line()
        client.close()
        return line

    assert knock(None).startswith(b"refused links need a certificate that NUN_PEER_CA")
    assert knock((key, cert)).startswith(b"peer 1 ")
    assert counters(node)["nodes_refused"] == 1
    assert "which has shown no certificate" in node.log
    # The authority is read anew as well.
    own.file.write_bytes(other.file.read_bytes())
    node.send_signal(signal.SIGHUP)
    wait_until(lambda: "read the certificate of ssl:0" in node.log, "a line in the log")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(cert, key)
    plain = socket.create_connection(node.address("TCP"), LIMIT)
    with context.wrap_socket(plain) as connection, pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        connection.recv(100)
    own.file.write_bytes(b"rubbish")
    node.send_signal(signal.SIGHUP)
    wait_until(lambda: "cannot be read anew" in node.log, "a line in the log")
    assert "Traceback" not in node.log


@pytest.mark.parametrize("content", [None, b"rubbish"])
def test_an_authority_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    status, _, errors = run_to_end(
        cwd=tmp_path,
        NUN_USER=USER,
        NUN_PWD=PASSWORD,
        NUN_TCP_ADDR=ANY_PORT,
        NUN_WS_ADDR="off",
        NUN_HTTP_ADDR="off",
        NUN_PEER_CA=str(path),
    )
    assert status == 1
    assert f"NUN_PEER_CA is '{path}': " in errors
    assert "Traceback" not in errors
