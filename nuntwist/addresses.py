"""Listening addresses: from what an operator writes to Twisted endpoint descriptions.

An address is written ``host:port``, ``:port`` (every interface), ``port``, ``[::1]:port``, or
as a Twisted endpoint string (``tcp:3014:interface=127.0.0.1``, ``unix:/run/nun.sock``,
``systemd:domain=INET:index=0``, ``ssl:…``).  Everything here gives endpoint strings, so the
rest of the node knows one form only.  Several addresses are parted by commas (``\\,`` is a
comma inside one); ``off``, ``none`` or nothing at all means: do not listen.

What others can reach matters where no password is set, so :func:`is_local` says yes only to
what is known to stay on this machine: a loopback interface or a unix socket.

All of it is pure: strings in, strings out, ValueError with half a sentence for the operator.
"""

from __future__ import annotations

import ipaddress
import re

PROXIED = "haproxy:"
"""What stands before an endpoint to which proxies come that say for whom."""
_OFF = frozenset({"", "off", "none"})
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]=]*):(?P<port>[0-9]+)")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]*")
_INTERFACE_ARGUMENT = {"tcp": 2, "tcp6": 3, "ssl": 5}
"""Where the interface stands when it is given by place; these types have a port first."""
_ENDPOINT_TYPES = frozenset({*_INTERFACE_ARGUMENT, "unix", "systemd", "haproxy"})
_MAY_BE_PROXIED = frozenset({*_INTERFACE_ARGUMENT, "unix", "systemd"})
_DOMAINS = ("INET", "INET6", "UNIX")
_TOLD = re.compile(r"[!-~]{1,255}")
"""What one node can tell another."""
_ANY_IPV4 = "0.0.0.0"
_PORT_RANGE = "the port must be a number from 0 to 65535"
_FORMS = (
    "an address is host:port, :port, [ipv6]:port, off,"
    " or an endpoint such as tcp:3014:interface=127.0.0.1 or unix:/run/nun.sock"
)


def parse_listeners(text: str) -> tuple[str, ...]:
    """Give the endpoint string of each address in a comma list; none where it says off.

    :raise ValueError: one of them is not an address.
    """
    if text.strip().lower() in _OFF:
        return ()
    return tuple(_endpoint(part.strip()) for part in re.split(r"(?<!\\),", text))


def parse_host_port(text: str) -> str:
    """Check one ``host:port`` that peers or clients connect to, and give it trimmed.

    :raise ValueError: it is not one.
    """
    address = text.strip()
    match = _HOST_PORT.fullmatch(address)
    if match is None or not match["host"]:
        raise ValueError("an address must look like host:port")
    _host(match["host"])
    if not _port(match["port"]):
        raise ValueError("port 0 cannot be connected to")
    return address


def client_endpoint(address: str, seconds: int) -> str:
    """Give the endpoint string that connects to the address of a node.

    :param address: ``host:port``, or ``tls:host:port`` and what Twisted takes after it.
    :param seconds: how long an attempt may take, where the address does not say.
    :raise ValueError: it is no such address.
    """
    match = _HOST_PORT.fullmatch(address)
    if match is not None and match["host"] != "tls":
        parse_host_port(address)
        host = _quote(match["host"].strip("[]"))
        return f"tcp:host={host}:port={match['port']}:timeout={seconds}"
    arguments, named = split_endpoint(address)
    if arguments[:1] != ["tls"] or len(arguments) != 3 or not arguments[1]:
        raise ValueError("an address must look like host:port, or tls:host:port")
    if not _port(arguments[2]):
        raise ValueError("port 0 cannot be connected to")
    return address if "timeout" in named else f"{address}:timeout={seconds}"


def parse_peer(text: str) -> str:
    """Check the address of a node of the set, and give it trimmed.

    :param text: see :func:`client_endpoint`.
    :raise ValueError: it is no such address, or nodes could not tell it each other.
    """
    address = text.strip()
    client_endpoint(address, 1)
    if not _TOLD.fullmatch(address):
        raise ValueError("the address of a node is at most 255 plain characters without a space")
    return address


def in_short(address: str) -> str:
    """The address of a node for a line in the log: without the files of a ``tls:`` address."""
    try:
        arguments, _ = split_endpoint(address)
    except ValueError:
        return address
    if arguments[0] != "tls" or len(arguments) != 3:
        return address
    host, port = arguments[1:]
    return f"tls:[{host}]:{port}" if ":" in host else f"tls:{host}:{port}"


def is_local(endpoint: str) -> bool:
    """Tell whether an endpoint can be reached from this machine only, for all we know."""
    arguments, named = split_endpoint(endpoint)
    kind = arguments[0]
    if kind == "unix":
        return True
    place = _INTERFACE_ARGUMENT.get(kind)
    if place is None:
        return False
    by_place = arguments[place] if len(arguments) > place else ""
    return _is_loopback(named.get("interface", by_place))


def is_unix(endpoint: str) -> bool:
    """Tell whether those who come to an endpoint have no address: they come over a unix socket."""
    arguments, named = split_endpoint(endpoint.removeprefix(PROXIED))
    if arguments[0] == "systemd":
        return named.get("domain", arguments[1] if len(arguments) > 1 else "") == "UNIX"
    return arguments[0] == "unix"


def host_and_port(endpoint: str) -> str | None:
    """Give ``host:port`` of a ``tcp:`` endpoint that names its interface, else None."""
    arguments, named = split_endpoint(endpoint)
    if arguments[0] not in ("tcp", "tcp6") or len(arguments) < 2:
        return None
    host = named.get("interface", "")
    if not host:
        return None
    return f"[{host}]:{arguments[1]}" if ":" in host else f"{host}:{arguments[1]}"


def split_endpoint(endpoint: str) -> tuple[list[str], dict[str, str]]:
    """Split an endpoint string as Twisted does: arguments by place, arguments by name.

    :raise ValueError: it ends in a single backslash.
    """
    arguments: list[str] = []
    named: dict[str, str] = {}
    name: str | None = None
    current = ""
    letters = iter(endpoint)
    for letter in letters:
        if letter == "\\":
            following = next(letters, None)
            if following is None:
                raise ValueError("it ends in a backslash")
            current += following
        elif letter == "=" and name is None:
            name, current = current, ""
        elif letter == ":":
            _keep(arguments, named, name, current)
            name, current = None, ""
        else:
            current += letter
    _keep(arguments, named, name, current)
    return arguments, named


def _keep(arguments: list[str], named: dict[str, str], name: str | None, value: str) -> None:
    if name is None:
        arguments.append(value)
    else:
        named[name] = value


def _endpoint(address: str) -> str:
    if re.fullmatch(r"[0-9]+", address):
        return f"tcp:{_port(address)}:interface={_ANY_IPV4}"
    match = _HOST_PORT.fullmatch(address)
    if match is not None and match["host"] not in _ENDPOINT_TYPES:
        host = _host(match["host"]) or _ANY_IPV4
        return f"tcp:{_port(match['port'])}:interface={_quote(host)}"
    if re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*", address):
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:3014")
    if _TYPE.fullmatch(address.partition(":")[0]) and ":" in address:
        return _checked(address)
    raise ValueError(_FORMS)


def _checked(endpoint: str) -> str:
    """Look at what can be known here; types of other packages are left to Twisted."""
    if endpoint.startswith(PROXIED):
        below = endpoint.removeprefix(PROXIED)
        if below.partition(":")[0] not in _MAY_BE_PROXIED:
            raise ValueError("haproxy: stands before a tcp:, ssl:, unix: or systemd: endpoint")
        return PROXIED + _checked(below)
    arguments, named = split_endpoint(endpoint)
    kind = arguments[0]
    if kind in _INTERFACE_ARGUMENT:
        _port(arguments[1] if len(arguments) > 1 else "")
        if kind == "ssl" and ("sslmethod" in named or len(arguments) > 4):
            raise ValueError("TLS 1.2 and later is spoken anyway: leave out sslmethod")
    elif kind == "systemd":
        _check_systemd(arguments, named)
    elif kind == "unix" and not (len(arguments) > 1 and arguments[1]):
        raise ValueError("a unix endpoint needs a path, as in unix:/run/nun.sock")
    elif kind not in _ENDPOINT_TYPES and len(arguments) == 2 and "/" not in endpoint:
        raise ValueError(_FORMS if named else _PORT_RANGE)
    return endpoint


def _check_systemd(arguments: list[str], named: dict[str, str]) -> None:
    given = dict(zip(("domain", "index", "name"), arguments[1:], strict=False)) | named
    if given.get("domain") not in _DOMAINS:
        raise ValueError(f"a systemd endpoint needs a domain, one of {', '.join(_DOMAINS)}")
    if ("index" in given) == ("name" in given):
        raise ValueError("a systemd endpoint needs an index or a name")
    if not re.fullmatch(r"[0-9]{1,9}", given.get("index", "0")):
        raise ValueError("the index of a systemd endpoint is a number")


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(_PORT_RANGE)
    return int(text)


def _host(text: str) -> str:
    """Give a host without brackets, checked as far as it can be without asking anybody."""
    if text in ("", "*"):
        return ""
    try:
        if text.startswith("["):
            return str(ipaddress.IPv6Address(text[1:-1]))
        if re.fullmatch(r"[0-9.]+", text):
            return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError("the host is not an IP address") from None
    if not _HOST_NAME.fullmatch(text):
        raise ValueError("the host is neither a name nor an IP address")
    return text


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _quote(argument: str) -> str:
    return argument.replace("\\", "\\\\").replace(":", "\\:")
