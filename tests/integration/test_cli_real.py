"""``nun-db`` in a process of its own, against real nodes, TLS included."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.conftest import Start
from tests.integration.harness import (
    LIMIT,
    PASSWORD,
    ROOT,
    USER,
    Process,
    clean_environment,
    no_trace_of_trouble,
    post,
    wait_until,
)

NUN_DB = (sys.executable, "-m", "nuntwist.cli")
CREDENTIALS = ("-u", USER, "-p", PASSWORD)
Ended = subprocess.CompletedProcess[str]


def nun_db(*words: str, **variables: str) -> Ended:
    """Run the command line to its end."""
    return subprocess.run(
        [*NUN_DB, *words],
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
    )


def url(node: Process, scheme: str = "http") -> str:
    host, port = node.address("HTTP")
    return f"{scheme}://{host}:{port}"


def is_refused(ended: Ended, part: str) -> None:
    """Assert that it ended with status 1 and one sentence."""
    assert ended.returncode == 1, ended
    assert part in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.endswith(".\n")


# -- against a node ----------------------------------------------------------------------------


def test_a_first_session(shared: Process) -> None:
    here = (*CREDENTIALS, "-h", url(shared))
    created = nun_db(*here, "create-db", "-d", "first", "-t", "tok")
    assert (created.returncode, created.stderr) == (0, "")
    assert created.stdout == 'Response "valid auth\\n;create-db success\\n"\n'
    done = nun_db(*here, "exec", 'use-db first tok; set k v ä"; get k; nope')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        'Response "valid auth\\n;empty;empty;value v ä\\"\\n;unknown command: nope"\n'
    )
    again = nun_db(*here, "create-db", "-d", "first", "-t", "tok", "-s", "newer")
    assert (again.returncode, again.stdout) == (
        0,
        'Response "valid auth\\n;database already exists"\n',
    )


def test_the_environment_names_user_and_password(shared: Process) -> None:
    done = nun_db("-h", url(shared), "exec", "ping", NUN_USER=USER, NUN_PWD=PASSWORD)
    assert (done.returncode, done.stdout) == (0, 'Response "valid auth\\n;pong\\n"\n')


def test_wrong_credentials(shared: Process) -> None:
    ended = nun_db("-u", USER, "-p", "wrong", "-h", url(shared), "exec", "cluster-state")
    is_refused(ended, "does not accept this user and password")
    assert ended.stdout == 'Response "invalid auth\\n;Not auth"\n'


def test_strict_counts_errors(shared: Process) -> None:
    shared.create("strict")
    with shared.select("strict") as client:
        # Over HTTP such a value could not be set.
        assert client.ask("set odd a;b") == [b"ok \n"]
    here = (*CREDENTIALS, "-h", url(shared), "--strict", "exec")
    good = nun_db(*here, "use-db strict tok; set k v; get k; get odd; keys; ping; snapshot")
    assert (good.returncode, good.stderr) == (0, ""), good
    for commands in ("get k", "nope", "use-db strict wrong", "use-db strict tok; get"):
        ended = nun_db(*here, commands)
        assert ended.returncode == 1, commands
        assert ended.stdout.startswith('Response "valid auth\\n;')


def test_keys_through_a_pipe_give_a_key_a_line(shared: Process) -> None:
    shared.create("piped")
    shared.admin("use-db piped tok", *(f"set key-{number} v" for number in range(3)))
    program = " ".join([*NUN_DB, *CREDENTIALS, "-h", url(shared)])
    done = subprocess.run(
        ["sh", "-c", f'{program} exec "use-db piped tok; keys" | tr "," "\\n"'],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert {"key-0", "key-1"} < set(lines)
    assert lines[-1].startswith("key-2")


def test_a_reader_that_has_gone_is_no_error(shared: Process) -> None:
    shared.create("broken")
    value = "v" * 500_000
    shared.admin("use-db broken tok", f"set k {value}")
    reading, writing = os.pipe()
    os.close(reading)
    words = (*CREDENTIALS, "-h", url(shared), "exec", "use-db broken tok; get k")
    with open(writing, "wb") as nobody:
        done = subprocess.run(
            [*NUN_DB, *words],
            env=clean_environment(),
            stdout=nobody,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
        )
    assert done.stderr == b""
    assert done.returncode == 0


def test_a_node_on_ipv6(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    node = start("--http-address", "[::1]:0")
    _, port = node.address("HTTP")
    done = nun_db(*CREDENTIALS, "-h", f"http://[::1]:{port}", "exec", "ping")
    assert (done.returncode, done.stdout) == (0, 'Response "valid auth\\n;pong\\n"\n'), done


def test_a_refused_body(start: Start) -> None:
    node = start("--max-body", "100")
    ended = nun_db(*CREDENTIALS, "-h", url(node), "exec", f"set k {'v' * 100}")
    is_refused(ended, "answered with status 413: a body may have at most 100 bytes.")


# -- no node -----------------------------------------------------------------------------------


def test_nobody_listens(free_port: int) -> None:
    ended = nun_db("-h", f"http://127.0.0.1:{free_port}", "exec", "ping")
    is_refused(ended, f"Cannot reach http://127.0.0.1:{free_port}: Connection refused.")
    assert ended.stdout == ""


@contextmanager
def saying(data: bytes | None) -> Iterator[int]:
    """A port that takes a connection and says nothing, or this and goodbye."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if data is None:
            yield port
            return
        server.settimeout(LIMIT)
        teller = threading.Thread(target=_say, args=(server, data))
        teller.start()
        try:
            yield port
        finally:
            teller.join()


def _say(server: socket.socket, data: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(data)


def test_a_server_that_never_answers() -> None:
    with saying(None) as port:
        ended = nun_db("--timeout", "0.3", "-h", f"http://127.0.0.1:{port}", "exec", "ping")
    is_refused(ended, f"No answer from http://127.0.0.1:{port} within 0.3 s.")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "closed the connection before its answer was complete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nval", "closed the connection before"),
        (b"ok \nhm\n\n", "did not answer in HTTP"),
    ],
    ids=["nothing", "half", "no HTTP"],
)
def test_a_server_that_answers_badly(data: bytes, part: str) -> None:
    with saying(data) as port:
        ended = nun_db("-h", f"http://127.0.0.1:{port}", "exec", "ping")
    is_refused(ended, part)


def test_an_interrupted_request_is_no_success() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"http://127.0.0.1:{server.getsockname()[1]}"
        child = subprocess.Popen(
            [*NUN_DB, "-h", host, "exec", "ping"],
            env=clean_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        server.settimeout(LIMIT)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1 << 16)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=LIMIT)
    assert (child.returncode, err) == (1, "Interrupted before there was an answer.\n")


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and its key beside it as key.pem."""
    place = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nuntwist test")])
    now = datetime.datetime.now(datetime.UTC)
    one = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (place / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    (place / "cert.pem").write_bytes(one.public_bytes(pem))
    return place / "cert.pem"


@pytest.fixture(scope="module")
def tls_node(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Process]:
    """A node whose HTTP port speaks TLS."""
    key = certificate.with_name("key.pem")
    address = f"ssl:0:privateKey={key}:certKey={certificate}:interface=127.0.0.1"
    with Process(tmp_path_factory.mktemp("tls-node"), "--http-address", address) as node:
        yield node
        no_trace_of_trouble(node.log)


def test_https_with_a_trusted_certificate(tls_node: Process, certificate: Path) -> None:
    here = (*CREDENTIALS, "--ca-file", str(certificate), "-h", url(tls_node, "https"))
    created = nun_db(*here, "create-db", "-d", "d", "-t", "tok")
    assert created.stdout == 'Response "valid auth\\n;create-db success\\n"\n', created
    done = nun_db(*here, "exec", "use-db d tok; set k v; get k")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 'Response "valid auth\\n;empty;empty;value v\\n"\n'


def test_the_system_can_trust_it(tls_node: Process, certificate: Path) -> None:
    """Without --ca-file the system's certificates count; OpenSSL lets a variable name them."""
    words = (*CREDENTIALS, "-h", url(tls_node, "https"), "exec", "ping")
    done = nun_db(*words, SSL_CERT_FILE=str(certificate))
    assert (done.returncode, done.stdout) == (0, 'Response "valid auth\\n;pong\\n"\n'), done


def test_an_untrusted_certificate_is_refused(tls_node: Process) -> None:
    name = "untrusted"
    here = (*CREDENTIALS, "-h", url(tls_node, "https"))
    ended = nun_db(*here, "create-db", "-d", name, "-t", "tok")
    is_refused(ended, f"The certificate of {url(tls_node, 'https')} is not trusted")
    assert ended.stdout == ""
    # Nothing was sent: the database is not there.
    with tls_node.tcp() as client:
        assert client.ask(f"use-db {name} tok")[-1] == b"error Not a valid database name \n"


def test_a_certificate_for_another_name_is_refused(tls_node: Process, certificate: Path) -> None:
    _, port = tls_node.address("HTTP")
    words = ("--ca-file", str(certificate), "-h", f"https://localhost:{port}", "exec", "ping")
    is_refused(nun_db(*words), "is for another name")


def test_http_and_https_mixed_up(tls_node: Process) -> None:
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        ended = nun_db("-h", f"https://127.0.0.1:{port}", "exec", "ping")
    is_refused(ended, "Cannot speak TLS with")
    is_refused(nun_db("-h", url(tls_node), "exec", "ping"), url(tls_node))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "Cannot read the certificates in"),
        (b"", "holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate"),
    ],
    ids=["missing", "empty", "damaged"],
)
def test_a_file_that_is_of_no_use(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    ended = nun_db("--ca-file", str(path), "-h", "https://127.0.0.1:1", "exec", "ping")
    is_refused(ended, part)


# -- start -------------------------------------------------------------------------------------


def processes_in(session: int) -> list[int]:
    """Those that are alive in a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


@contextmanager
def started(place: Path, port: int, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """``nun-db start`` in a session of its own, answering over HTTP."""
    words = ("--ws-address", "off", "-t", "tcp:0:interface=127.0.0.1", "--dbs-dir", "data")
    with (place / "log").open("wb") as log:
        child = subprocess.Popen(
            [*NUN_DB, *before, "start", *words, "-h", f"127.0.0.1:{port}"],
            cwd=place,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(port) or child.poll() is not None, "the node to answer")
        assert child.poll() is None, (place / "log").read_text()
        yield child
    finally:
        child.kill()
        child.wait()


def answers(port: int) -> bool:
    try:
        return post(("127.0.0.1", port), "ping") == "pong\n"
    except (OSError, http.client.HTTPException):
        return False


def test_start_is_a_node_and_ends_with_status_0(tmp_path: Path, free_port: int) -> None:
    with started(tmp_path, free_port, *CREDENTIALS) as child:
        host = f"http://127.0.0.1:{free_port}"
        assert nun_db("-h", host, "exec", "ping").returncode == 1
        created = nun_db(*CREDENTIALS, "-h", host, "create-db", "-d", "d", "-t", "tok")
        assert created.returncode == 0, created
        # One process, which is the one that was started.
        assert processes_in(child.pid) == [child.pid]
        child.terminate()
        assert child.wait(LIMIT) == 0
        assert processes_in(child.pid) == []
    log = (tmp_path / "log").read_text()
    no_trace_of_trouble(log)
    assert PASSWORD not in log
    assert (tmp_path / "data").is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "log"}
    with started(tmp_path, free_port, *CREDENTIALS):
        done = nun_db(*CREDENTIALS, "-h", host, "--strict", "exec", "use-db d tok")
        assert done.returncode == 0, done


def test_a_killed_start_leaves_nothing_behind(tmp_path: Path, free_port: int) -> None:
    with started(tmp_path, free_port) as child:
        child.kill()
        assert child.wait(LIMIT) == -signal.SIGKILL
        assert processes_in(child.pid) == []
        assert not answers(free_port)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("start", "--tcp-address", "0.0.0.0:0"), "no credentials are configured"),
        (("start", "--log-level", "loud"), "--log-level"),
        (("start", "--nope"), "--nope"),
        (("-u", "someone", "start"), "NUN_PWD"),
    ],
)
def test_a_bad_start_is_one_sentence(words: tuple[str, ...], part: str) -> None:
    is_refused(nun_db(*words), part)


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ("start", "-t", used, "-w", "off", "-h", "off", "--dbs-dir", str(tmp_path / "d"))
        ended = nun_db(*words, "--log-level", "critical")
    assert ended.returncode == 1
    assert "Cannot listen on" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_scripts_of_the_page_about_users_do_what_it_says(start: Start, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "users.md").read_text()
    scripts = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    node = start()
    for name in ("board", "chat"):
        node.create(name)
    own = f'nun-db() {{ {sys.executable} -m nuntwist.cli -h {url(node)} "$@"; }}\n'
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", own + "".join(scripts)],
        cwd=tmp_path,
        env=clean_environment(U=USER, P=PASSWORD),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    secret = (tmp_path / "board.secret").read_text().strip()
    claims = {"db": "board", "sub": "ana", "exp": time.time() + 60, "permissions": "r *"}
    answer = node.post(f"use-db board jwt {jwt.encode(claims, secret)}; get $connections; set a b")
    assert answer == "empty;value 1\n;permission denied\n", answer
    for name in ("board", "chat"):
        answer = node.post(f"use-db {name} monitor m0nitor; get $connections; get note")
        assert answer == "empty;value 1\n;permission denied\n", answer
