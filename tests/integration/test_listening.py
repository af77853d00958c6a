"""Where a real node listens, and how it refuses to start: one sentence, status 1, nothing left."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.certificates import DAY, Authority
from tests.integration.conftest import Start
from tests.integration.harness import (
    LIMIT,
    OK,
    Frames,
    Lines,
    Process,
    clean_environment,
    no_trace_of_trouble,
    over_tls,
    read_to_end,
    run_to_end,
    wait_until,
)

# -- listening -------------------------------------------------------------------------------------


def _request(connection: socket.socket, body: bytes) -> bytes:
    """POST on an open connection; the body of the answer."""
    connection.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    head, _, answer = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return answer


def _converse(line: Lines, frames: Frames) -> None:
    """What one sets the other sees."""
    with line, frames:
        assert line.ask("auth admin s3cr3t-pwd")[0] == b"valid auth\n"
        assert line.ask("create-db d tok") == [b"create-db success\n", OK]
        assert line.ask("use-db d tok") == [OK]
        assert frames.ask("use-db d tok") == [OK]
        assert frames.ask("watch k") == [OK]
        assert line.ask("set k " + "v" * 300_000) == [OK]
        assert frames.text() == b"changed k " + b"v" * 300_000 + b"\n"
        assert frames.text().startswith(b"changed-version k 0 v")
        assert line.ask("get k") == [b"value " + b"v" * 300_000 + b"\n", OK]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A short directory: the path of a unix socket may have about 100 bytes."""
    path = Path(f"/tmp/nuntwist-{os.getpid()}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


def _unix(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LIMIT)
    connection.connect(str(path))
    return connection


def test_unix_sockets(start: Start, short_path: Path) -> None:
    names = {"NUN_TCP_ADDR": "t.sock", "NUN_WS_ADDR": "w.sock", "NUN_HTTP_ADDR": "h.sock"}
    paths = {variable: short_path / name for variable, name in names.items()}
    node = start(variables={variable: f"unix:{path}" for variable, path in paths.items()})

    def talk() -> None:
        line = Lines(_unix(paths["NUN_TCP_ADDR"]))
        assert line.ask("ping") == [b"pong\n", OK]
        line.close()
        with _unix(paths["NUN_HTTP_ADDR"]) as connection:
            assert _request(connection, b"ping") == b"pong\n"

    _converse(Lines(_unix(paths["NUN_TCP_ADDR"])), Frames(_unix(paths["NUN_WS_ADDR"])))
    talk()
    for path in paths.values():
        assert str(path) in node.log
    # A socket left behind by a killed node is no obstacle; a stopped one leaves none.
    node.kill()
    node.start()
    talk()
    assert node.stop() == 0
    no_trace_of_trouble(node.log)
    assert list(short_path.iterdir()) == []


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a key and a certificate that it signed for itself."""
    return new_certificate(tmp_path)


def new_certificate(where: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_path, certificate_path = where / "key.pem", where / "certificate.pem"
    key_path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_path.write_bytes(made.public_bytes(pem))
    return key_path, certificate_path


def test_tls(start: Start, certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    endpoint = f"ssl:0:privateKey={key}:certKey={cert}:interface=127.0.0.1"
    names = ("NUN_TCP_ADDR", "NUN_WS_ADDR", "NUN_HTTP_ADDR")
    node = start(variables=dict.fromkeys(names, endpoint))

    def connect(what: str) -> ssl.SSLSocket:
        return over_tls(socket.create_connection(node.address(what), LIMIT))

    _converse(Lines(connect("TCP")), Frames(connect("WebSocket")))
    with connect("HTTP") as connection:
        assert _request(connection, b"use-db d tok; get nothing") == b"empty;value <Empty>\n"
    # Somebody who does not speak TLS does no harm, nor does one who stops in the middle.
    with socket.create_connection(node.address("TCP"), LIMIT) as plain:
        plain.sendall(b"use-db d tok\n")
        assert b"ok" not in read_to_end(plain)
    lines = Lines(connect("TCP"))
    lines.send(b"".join(b"ping\n" for _ in range(1_000)))
    for _ in range(1_000):
        assert lines.answer() == [b"pong\n", OK]
    node.send_signal(signal.SIGTERM)
    assert lines.rest() == b""
    lines.close()
    assert node.wait() == 0
    no_trace_of_trouble(node.log)


def test_certificates_are_read_anew(
    start: Start, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    key, cert = certificate
    endpoint = f"ssl:0:privateKey={key}:certKey={cert}:interface=127.0.0.1"
    node = start(variables={"NUN_TCP_ADDR": endpoint, "NUN_WS_ADDR": endpoint})

    def shown(what: str) -> bytes:
        with over_tls(socket.create_connection(node.address(what), LIMIT)) as connection:
            return connection.getpeercert(binary_form=True) or b""

    def hang_up(times: int, said: str) -> None:
        node.send_signal(signal.SIGHUP)
        wait_until(lambda: node.log.count(said) == times, said)

    first = shown("TCP")
    there = Lines(over_tls(socket.create_connection(node.address("TCP"), LIMIT)))
    new_certificate(tmp_path)
    assert shown("TCP") == shown("WebSocket") == first
    hang_up(2, "read the certificate of ssl:0")
    second = shown("TCP")
    assert second != first
    assert shown("WebSocket") == second
    cert.write_bytes(b"rubbish")
    hang_up(2, "its key or certificate cannot be used; the one of before stays")
    key.unlink()
    hang_up(2, "no such file or directory; the one of before stays")
    assert shown("TCP") == shown("WebSocket") == second
    assert there.ask("ping") == [b"pong\n", OK]
    there.close()
    # One that nobody takes is used all the same; an operator is told.
    Authority(tmp_path / "ca").issue(tmp_path, ends=-DAY / 2)
    (tmp_path / "cert.pem").rename(cert)
    hang_up(2, "whoever looks at it does not connect; put another one in its place and send SIGHUP")
    assert node.log.count(" anew; it is valid until 20") == 4
    assert re.search(r"the certificate of ssl:0:\S+ was valid until 20\d\d-\d\d-\d\d ", node.log)
    assert node.stop() == 0
    assert "Traceback" not in node.log


def test_a_hang_up_without_certificates_is_no_end(start: Start) -> None:
    node = start()
    node.send_signal(signal.SIGHUP)
    wait_until(lambda: "there are none" in node.log, "a line in the log")
    assert node.post("ping") == "pong\n"


def test_several_listeners_and_none(start: Start) -> None:
    both = "tcp:0:interface=127.0.0.1,127.0.0.1:0"
    node = start(variables={"NUN_TCP_ADDR": both, "NUN_WS_ADDR": "off", "NUN_HTTP_ADDR": ""})
    ports = re.findall(r"listening for TCP on 127\.0\.0\.1:(\d+)", node.log)
    assert len(set(ports)) == 2
    assert "listening for HTTP" not in node.log
    assert "listening for WebSocket" not in node.log
    for port in ports:
        with Lines(socket.create_connection(("127.0.0.1", int(port)), LIMIT)) as client:
            assert client.ask("ping") == [b"pong\n", OK]


def test_ipv6(start: Start) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    names = ("NUN_TCP_ADDR", "NUN_WS_ADDR", "NUN_HTTP_ADDR")
    node = start(variables=dict.fromkeys(names, "[::1]:0"))
    assert re.search(r"listening for TCP on \[::1\]:\d+", node.log)
    _converse(node.tcp(), node.ws())
    assert node.post("ping") == "pong\n"


def test_the_tcp_address_is_the_name_in_the_state_of_the_cluster(start: Start) -> None:
    node = start(variables={"NUN_EXTERNAL_ADDR": "db.example.org:3014"})
    assert "db.example.org:3014(self):Primary" in node.admin("cluster-state")


# -- refusing to start -----------------------------------------------------------------------------

LISTENERS = {"NUN_TCP_ADDR": "127.0.0.1:0", "NUN_WS_ADDR": "off", "NUN_HTTP_ADDR": "off"}
CREDENTIALS = {"NUN_USER": "admin", "NUN_PWD": "s3cr3t-pwd"}


def _refusal(cwd: Path, *options: str, **variables: str) -> str:
    """Run what must be refused; the one sentence that says why."""
    settings = {**LISTENERS, **CREDENTIALS, **variables}
    settings = {name: value for name, value in settings.items() if value is not None}
    status, output, errors = run_to_end(*options, cwd=cwd, **settings)
    assert (status, output) == (1, ""), (status, output, errors)
    assert "Traceback" not in errors
    assert "s3cr3t-pwd" not in errors
    assert not list(cwd.glob("twistd*"))
    lines = errors.splitlines()
    if len(lines) == 1:
        return lines[0]
    (sentence,) = [line for line in lines if " critical " in line]
    return sentence


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NUN_TCP_ADDR", "unix:/no/such/place/t.sock", "Cannot listen on unix:/no/such/place"),
        ("NUN_TCP_ADDR", "192.0.2.1:0", "Cannot listen on tcp:0:interface=192.0.2.1: "),
        ("NUN_TCP_ADDR", "ssl:0:privateKey=/no/key.pem", "Cannot listen on ssl:0"),
        ("NUN_TCP_ADDR", "pigeon:/loft", "Cannot listen on pigeon:/loft: "),
        ("NUN_TCP_ADDR", "no.such.host.invalid:0", "Cannot listen on tcp:0"),
        (
            "NUN_TCP_ADDR",
            "tcp:0:interface=127.0.0.1:colour=red",
            "Cannot listen on tcp:0:interface=127.0.0.1:colour=red: it has an argument that this"
            " type of endpoint does not take, or lacks one.",
        ),
        ("NUN_TCP_ADDR", "tcp:0:interface=127.0.0.1:backlog=many", ": 'many' is not a number."),
        (
            "NUN_TCP_ADDR",
            "ssl:0:privateKey=log-of-nothing",
            "Cannot listen on ssl:0:privateKey=log-of-nothing: no such file or directory.",
        ),
        (
            "NUN_TCP_ADDR",
            f"ssl:0:privateKey={__file__}",
            f"Cannot listen on ssl:0:privateKey={__file__}: its key or certificate cannot be used.",
        ),
        (
            "NUN_TCP_ADDR",
            "systemd:domain=INET:index=0",
            "Cannot listen on systemd:domain=INET:index=0: the system handed over no such socket.",
        ),
        ("NUN_DBS_DIR", "/proc/nuntwist", "The data directory /proc/nuntwist cannot be used: "),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    assert expected in _refusal(tmp_path, **{variable: value})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("NUN_TCP_ADDR", "127.0.0.1:70000", "NUN_TCP_ADDR is '127.0.0.1:70000': "),
        ("NUN_HTTP_ADDR", "3014:", "NUN_HTTP_ADDR is '3014:': "),
        ("NUN_WS_ADDR", "999.0.0.1:1", "NUN_WS_ADDR is '999.0.0.1:1': "),
        ("NUN_LOG_LEVEL", "loud", "NUN_LOG_LEVEL is 'loud': "),
        ("NUN_MAX_LINE", "-1", "NUN_MAX_LINE is '-1': "),
        ("NUN_PWD", "", "NUN_USER is set but no password"),
        ("NUN_OUTPUT_LIMIT", "1KiB", "NUN_OUTPUT_LIMIT is 1024: "),
    ],
)
def test_a_wrong_variable_is_one_sentence_and_makes_nothing(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    assert _refusal(tmp_path, **{variable: value}).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_is_no_option_is_one_sentence(tmp_path: Path) -> None:
    assert _refusal(tmp_path, "start") == (
        "nundb: 'start' is not an option; see twistd nundb --help."
    )


def test_without_credentials_it_does_not_listen_for_others(tmp_path: Path) -> None:
    nobody = {"NUN_USER": "", "NUN_PWD": "", "NUN_TCP_ADDR": "0.0.0.0:0"}
    sentence = _refusal(tmp_path, **nobody)
    assert "asks to listen on" in sentence
    assert "no credentials are configured" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "dbs").write_text("mine")
    assert "The data directory dbs cannot be used: " in _refusal(tmp_path)
    assert (tmp_path / "dbs").read_text() == "mine"


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        (tmp_path / "dbs").mkdir(mode=0o500)
        assert "cannot be used: Permission denied" in _refusal(tmp_path)
        return
    # Root may write where it likes, save on a file system that nobody may write to.
    place = tmp_path / "dbs"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no read-only file system can be mounted")
    try:
        assert "cannot be used: Read-only file system" in _refusal(tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_used_port_gives_back_what_was_taken_before_it(tmp_path: Path) -> None:
    """The third listener fails: the data directory and the other ports are free again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        sentence = _refusal(
            tmp_path, NUN_HTTP_ADDR=address, NUN_WS_ADDR="127.0.0.1:0", NUN_TCP_ADDR="unix:t.sock"
        )
    assert f"Cannot listen on tcp:{address.split(':')[1]}" in sentence
    assert "in use" in sentence
    node = Process(tmp_path)
    with node:
        assert node.stop() == 0


def test_a_port_that_only_root_may_have(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    low = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if setpriv is None or os.geteuid() != 0 or int(low.read_text()) <= 80:
        pytest.skip("takes root, setpriv, and a port that is refused to others")
    # Root without the capability: it still owns the files.
    before = (setpriv, "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    status, output, errors = run_to_end(
        cwd=tmp_path, before=before, **{**LISTENERS, **CREDENTIALS, "NUN_TCP_ADDR": "127.0.0.1:80"}
    )
    assert (status, output) == (1, "")
    assert "Cannot listen on tcp:80:interface=127.0.0.1: permission denied." in errors
    assert "Errno" not in errors


AGAIN = """
import sys
from twisted.internet import task
from twisted.internet.defer import ensureDeferred
from nuntwist.config import make_config
from nuntwist.errors import StartError
from nuntwist.service import make_node_service

def made(address, reactor):
    listeners = {"ws-address": "off", "http-address": "off", "tcp-address": address}
    return make_node_service(make_config({**listeners, "dbs-dir": sys.argv[1]}, {}), reactor)

def refused(service):
    try:
        service.privilegedStartService()
    except StartError as error:
        print(error)

async def main(reactor):
    refused(made("unix:/no/such/place", reactor))
    for _ in range(2):
        first = made("127.0.0.1:0", reactor)
        first.privilegedStartService()
        first.startService()
        refused(made("127.0.0.1:0", reactor))
        await first.stopService()

task.react(lambda reactor: ensureDeferred(main(reactor)))
"""


def test_a_process_may_start_a_node_again_where_one_has_ended(tmp_path: Path) -> None:
    """The data directory is given back by a stop, and by a start that failed half-way."""
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(tmp_path / "dbs")],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *others = done.stdout.splitlines()
    assert first == "Cannot listen on unix:/no/such/place: no such file or directory."
    assert len(others) == 2
    assert all("is used by another process" in sentence for sentence in others)


def test_the_help_names_every_option(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "nundb", "--help"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: twistd [options] nundb [options]\n")
    for option in ("--tcp-address", "--ws-address", "--http-address", "--dbs-dir", "--log-format"):
        assert option in done.stdout
    assert list(tmp_path.iterdir()) == []
