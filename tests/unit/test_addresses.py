"""Listening addresses: what an operator writes, and the endpoint string it becomes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.testing import MemoryReactor

from nuntwist.addresses import (
    client_endpoint,
    host_and_port,
    in_short,
    is_local,
    is_unix,
    parse_host_port,
    parse_listeners,
    parse_peer,
    split_endpoint,
)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:3012", "tcp:3012:interface=127.0.0.1"),
        ("0.0.0.0:3012", "tcp:3012:interface=0.0.0.0"),
        (":3012", "tcp:3012:interface=0.0.0.0"),
        ("*:3012", "tcp:3012:interface=0.0.0.0"),
        ("3012", "tcp:3012:interface=0.0.0.0"),
        ("localhost:0", "tcp:0:interface=localhost"),
        ("db-1.example.org:3012", "tcp:3012:interface=db-1.example.org"),
        ("[::1]:3012", r"tcp:3012:interface=\:\:1"),
        ("[::]:3012", r"tcp:3012:interface=\:\:"),
        ("  127.0.0.1:3012 ", "tcp:3012:interface=127.0.0.1"),
        ("tcp:3014", "tcp:3014"),
        ("tcp:3014:interface=127.0.0.1", "tcp:3014:interface=127.0.0.1"),
        ("unix:/run/nun.sock", "unix:/run/nun.sock"),
        ("unix:/run/nun.sock:mode=660", "unix:/run/nun.sock:mode=660"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
        ("ssl:443:privateKey=k.pem", "ssl:443:privateKey=k.pem"),
        ("haproxy:tcp:3014", "haproxy:tcp:3014"),
    ],
)
def test_one_address(text: str, endpoint: str) -> None:
    assert parse_listeners(text) == (endpoint,)


@pytest.mark.parametrize("text", ["127.0.0.1:3012", "[::1]:3012", ":3012", "tcp:3014"])
def test_twisted_listens_where_the_text_says(text: str) -> None:
    (endpoint,) = parse_listeners(text)
    reactor = MemoryReactor()
    serverFromString(reactor, endpoint).listen(object())
    port, _, _, interface = reactor.tcpServers[0]
    assert (port, interface) == {
        "127.0.0.1:3012": (3012, "127.0.0.1"),
        "[::1]:3012": (3012, "::1"),
        ":3012": (3012, "0.0.0.0"),
        "tcp:3014": (3014, ""),
    }[text]


@pytest.mark.parametrize("text", ["", "  ", "off", "None", "OFF"])
def test_off(text: str) -> None:
    assert parse_listeners(text) == ()


def test_several_addresses() -> None:
    assert parse_listeners(r"127.0.0.1:1, unix:/run/a\,b") == (
        "tcp:1:interface=127.0.0.1",
        r"unix:/run/a\,b",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1:65536", "port"),
        ("127.0.0.1:999999", "port"),
        ("localhost:http", "port"),
        ("tcp:x", "port"),
        ("tcp:", "port"),
        ("tcp:70000:interface=::1", "port"),
        ("::1:3012", "brackets"),
        ("fe80::1:3012", "brackets"),
        ("[::g]:3012", "IP address"),
        ("300.1.1.1:3012", "IP address"),
        ("-bad-:3012", "neither a name"),
        ("a b:3012", "neither a name"),
        ("unix:", "path"),
        ("127.0.0.1", "host:port"),
        ("hello", "host:port"),
        ("127.0.0.1:3012,", "host:port"),
        ("unix:/run/x\\", "backslash"),
    ],
)
def test_what_is_no_address(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_listeners(text)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:1:interface=127.0.0.1",
        "tcp:1:interface=127.8.9.1",
        "tcp:1:127.0.0.1",
        "tcp:1:interface=localhost",
        r"tcp:1:interface=\:\:1",
        r"tcp:1:interface=\:\:ffff\:127.0.0.1",
        r"tcp6:1:interface=\:\:1",
        "ssl:1:interface=127.0.0.1",
        "unix:/run/nun.sock",
    ],
)
def test_what_stays_on_this_machine(endpoint: str) -> None:
    assert is_local(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:1",
        "tcp:1:interface=",
        "tcp:1:interface=0.0.0.0",
        "tcp:1:interface=10.0.0.1",
        "tcp:1:10.0.0.1",
        "tcp:1:interface=127.0.0.1.example.org",
        r"tcp:1:interface=\:\:",
        r"tcp:1:interface=\:\:ffff\:10.0.0.1",
        "tcp6:1",
        "ssl:1",
        "systemd:domain=INET:index=0",
        "haproxy:tcp:1:interface=127.0.0.1",
        "other:thing",
    ],
)
def test_what_others_may_reach(endpoint: str) -> None:
    assert not is_local(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp:3014:interface=10.0.0.1", "10.0.0.1:3014"),
        (r"tcp:3014:interface=\:\:1", "[::1]:3014"),
        ("tcp:3014", None),
        ("unix:/run/nun.sock", None),
    ],
)
def test_host_and_port(endpoint: str, address: str | None) -> None:
    assert host_and_port(endpoint) == address


@pytest.mark.parametrize("text", [" a.example:3014 ", "10.0.0.1:1", "[::1]:3014"])
def test_an_address_to_connect_to(text: str) -> None:
    assert parse_host_port(text) == text.strip()


@pytest.mark.parametrize("text", ["", "a", ":3014", "a:0", "a:99999", "tcp:a:3014", "a:b"])
def test_nothing_to_connect_to(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|port|host"):
        parse_host_port(text)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        endpoints = parse_listeners(text)
    except ValueError:
        return
    for endpoint in endpoints:
        is_local(endpoint)
        host_and_port(endpoint)


@given(st.text("tls:=.\\[]019 ax") | st.text())
@example("timeout=1")
def test_any_text_is_the_address_of_a_node_or_a_value_error(text: str) -> None:
    try:
        address = parse_peer(text)
    except ValueError:
        return
    assert parse_peer(address) == address == text.strip()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("unix:/run/x", True),
        ("haproxy:unix:/run/x:mode=660", True),
        ("systemd:domain=UNIX:index=0", True),
        ("haproxy:systemd:UNIX:0", True),
        ("haproxy:systemd:domain=INET:name=UNIX", False),
        ("systemd", False),
        ("haproxy:tcp:3014", False),
        ("ssl:3443", False),
    ],
)
def test_who_comes_over_a_unix_socket(endpoint: str, expected: bool) -> None:
    assert is_unix(endpoint) == expected


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("", "needs a domain, one of INET, INET6, UNIX"),
        ("domain=VSOCK:index=0", "needs a domain"),
        ("domain=UNIX", "needs an index or a name"),
        ("domain=UNIX:index=0:name=x", "needs an index or a name"),
        ("domain=UNIX:index=-1", "is a number"),
        ("UNIX:first", "is a number"),
    ],
)
@pytest.mark.parametrize("before", ["", "haproxy:"])
def test_what_systemd_does_not_hand_over(rest: str, why: str, before: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_listeners(f"{before}systemd:{rest}")


@pytest.mark.parametrize(
    ("address", "short"),
    [
        ("a.example:3014", "a.example:3014"),
        ("[::1]:3014", "[::1]:3014"),
        ("tls:a.example:3014:trustRoots=/etc/ca:timeout=3", "tls:a.example:3014"),
        ("tls:\\:\\:1:3014:trustRoots=/etc/ca", "tls:[::1]:3014"),
        # Of others nothing is certain.
        *(2 * (odd,) for odd in ("", "-", "tls:", "tls:a", "tls:a:1:x", "tls:a:1:ca=\\")),
    ],
)
def test_the_address_of_a_node_in_short(address: str, short: str) -> None:
    assert in_short(address) == short


@given(st.lists(st.text(min_size=1), min_size=1), st.text())
def test_splitting_undoes_the_quoting_of_twisted(places: list[str], value: str) -> None:
    quoted = [quoteStringArgument(place).replace("=", "\\=") for place in places]
    endpoint = ":".join([*quoted, "name=" + quoteStringArgument(value)])
    assert split_endpoint(endpoint) == (places, {"name": value})


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("a.example:3014", "tcp:host=a.example:port=3014:timeout=2"),
        ("127.0.0.1:1", "tcp:host=127.0.0.1:port=1:timeout=2"),
        ("[::1]:3014", "tcp:host=\\:\\:1:port=3014:timeout=2".replace("\\\\", "\\")),
        ("tls:a.example:3014", "tls:a.example:3014:timeout=2"),
        ("tls:a:1:trustRoots=/etc/ca", "tls:a:1:trustRoots=/etc/ca:timeout=2"),
        ("tls:a:1:timeout=9", "tls:a:1:timeout=9"),
    ],
)
def test_where_a_node_is_connected_to(address: str, endpoint: str) -> None:
    assert client_endpoint(address, 2) == endpoint


@pytest.mark.parametrize(
    "address",
    [
        *("", "-", ":", "a", "a:", ":3014", "a:0", "a:65536", "a:b", "a b:1", "a:1\\"),
        *("tls:a", "tls:1", "tls:a:0", "tls:a:b", "tls::1", "tcp:a:1", "unix:/run/a"),
        *("ssl:a:1", "process:/bin/sh:1"),
    ],
)
def test_where_no_node_can_be(address: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        client_endpoint(address, 2)


def test_what_nodes_tell_each_other_is_short_and_plain() -> None:
    assert parse_peer(" tls:a:1:trustRoots=/etc/ca ") == "tls:a:1:trustRoots=/etc/ca"
    for address in ("tls:a:1:trustRoots=/etc/my ca", "tls:a:1:trustRoots=/" + "x" * 255):
        with pytest.raises(ValueError, match="plain characters"):
            parse_peer(address)
