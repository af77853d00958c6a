"""What ``nun-db create-db`` and ``nun-db exec`` do: one POST to a node, and a look at its answer.

:func:`ask` sends the commands with a treq client that is handed in and fires with the text of
the answer; whatever is in the way becomes one sentence in an :class:`AskFailed`. Checks that
need no network (:func:`checked_host`, :func:`checked_credentials`, :func:`checked_word`) come
first, because what HTTP cannot carry would otherwise be taken for another command.

The rest is pure. :func:`parts_of` splits an answer into one part a command, :func:`is_error`
tells which of them are errors, :func:`quoted` writes the answer as scripts know it: as Rust's
``{:?}`` does, since that is what they were written for.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from hyperlink import URL
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.python.failure import Failure

from nuntwist.errors import NuntwistError

INVALID = "invalid auth\n"
_DATA = re.compile(
    r"(value|value-version|keys|changed|changed-version|removed|resolve|conflitcts-list|pending-ops"
    r"|signing-keys|dbs-list|cluster-state|metrics-state|commands-list) "
)
"""How messages begin that can hold a key, a value or a name, and so a semicolon."""
_SHOWN = 200
"""How much of a refusal is shown, in characters."""


class AskFailed(NuntwistError):
    """There is no answer; the text is one sentence for the user."""


class AskRefused(AskFailed):
    """The answer has another HTTP status than 200, which is ``code``."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class Poster(Protocol):
    """A treq client, or what stands in for it."""

    def post(
        self,
        url: URL,
        /,
        *,
        data: bytes,
        headers: dict[bytes | str, bytes | str],
        allow_redirects: bool,
    ) -> Deferred[Any]:
        """Begin a request; fires with treq's response."""


# -- before anything is sent -------------------------------------------------------------------


def checked_host(text: str) -> str:
    """Give the address of a node as it was written.

    :raise AskFailed: it is not an http or https URL.
    """
    try:
        parsed = urlsplit(text)
        # What the client library will do with it must not be the first to fail.
        _address(text).to_uri().to_text().encode("ascii")
        sound = parsed.scheme in ("http", "https") and parsed.hostname and parsed.port != 0
    except ValueError:
        sound = False
    if not sound or re.search(r"[\s\x00-\x1f\x7f]", text):
        raise AskFailed(f"{text!r} is not the URL of a node, as in http://127.0.0.1:3013.")
    if parsed.username is not None or parsed.password is not None:
        raise AskFailed("The URL of a node holds no user and password: use --user and --pwd.")
    return text


class _NumberedURL(URL):
    """A URL with an IPv6 address, which hyperlink would encode as if it were a name."""

    def to_uri(self) -> URL:
        """Itself: it must be ASCII as it stands."""
        return self


def _address(host: str) -> URL:
    """Give what treq is told to go to.

    :raise ValueError: it is not a URL.
    """
    url = URL.from_text(host)
    return _NumberedURL.from_text(host) if ":" in url.host else url


def checked_word(what: str, text: str) -> str:
    """Give a text that can stand as one word in a command.

    :raise AskFailed: it is empty, or HTTP would take it for something else.
    """
    if not text or re.search(r"[\s;]", text):
        raise AskFailed(f"{what} must be one word without spaces, line breaks or semicolons.")
    return checked_text(what, text)


def checked_text(what: str, text: str) -> str:
    """Give a text that can be sent at all.

    :raise AskFailed: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AskFailed(f"{what} is not valid UTF-8.") from None
    return text


def checked_credentials(user: str, password: str) -> str:
    """Give the command that authenticates.

    :raise AskFailed: HTTP cannot carry them.
    """
    checked_word("The user", user)
    if re.search(r"[;\r\n]", password) or password != password.strip():
        raise AskFailed(
            "The password holds a semicolon, a line break or a space at an end,"
            " which cannot be sent over HTTP."
        )
    return f"auth {user} {checked_text('The password', password)}"


# -- asking ------------------------------------------------------------------------------------


def make_client(reactor: Any, host: str, ca_file: str | None, keep: bool = False) -> Poster:
    """Make the treq client for a node.

    :param ca_file: a PEM file of the certificates to trust; None for those of the system.
    :param keep: whether to keep connections for the next requests.
    :raise AskFailed: the file cannot be used.
    """
    # Imported late: TLS takes a while to load, and half of all uses need none of this.
    from treq.client import HTTPClient
    from twisted.web.client import Agent, HTTPConnectionPool

    pool = HTTPConnectionPool(reactor, persistent=keep)
    # The node closes one that has been idle for a minute.
    pool.cachedConnectionTimeout = 20
    if not host.startswith("https:"):
        return HTTPClient(Agent(reactor, pool=pool))
    from twisted.internet.ssl import platformTrust
    from twisted.web.client import BrowserLikePolicyForHTTPS

    trust = platformTrust() if ca_file is None else _trust_in(ca_file)
    return HTTPClient(Agent(reactor, BrowserLikePolicyForHTTPS(trust), pool=pool))


def _trust_in(ca_file: str) -> Any:
    from OpenSSL.crypto import Error
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    try:
        text = Path(ca_file).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AskFailed(f"Cannot read the certificates in {ca_file}: {reason}.") from None
    pattern = rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----"
    try:
        found = [Certificate.loadPEM(one) for one in re.findall(pattern, text, re.DOTALL)]
    except (Error, ValueError):
        found = []
    if not found:
        raise AskFailed(f"{ca_file} holds no certificate in PEM format, or a damaged one.")
    return trustRootFromCertificates(found)


def ask(reactor: Any, client: Poster, host: str, body: str, timeout: float) -> Deferred[str]:
    """Post commands to a node.

    :param timeout: seconds until all of the answer must be there.
    :return: a Deferred that fires with the answer, or fails with AskFailed.
    """
    asked = _ask(client, host, body)

    def late(result: str | Failure, seconds: float) -> str | Failure:
        if isinstance(result, Failure):
            return Failure(AskFailed(f"No answer from {host} within {seconds:g} s."))
        return result

    asked.addTimeout(timeout, reactor, onTimeoutCancel=late)
    return asked


@inlineCallbacks
def _ask(client: Poster, host: str, body: str) -> Generator[Deferred[Any], Any, str]:
    # Imported late, for the same reason.
    from OpenSSL.SSL import Error as TLSError
    from service_identity import VerificationError
    from twisted.web.client import RequestTransmissionFailed, ResponseFailed

    try:
        response = yield client.post(
            _address(host),
            data=body.encode(),
            headers={"content-type": "text/plain; charset=utf-8"},
            # A redirected POST would become a GET, which runs nothing.
            allow_redirects=False,
        )
        content = yield response.content()
    except (
        *(ConnectError, ConnectionClosed, DNSLookupError, RequestTransmissionFailed),
        *(ResponseFailed, TLSError, VerificationError),
    ) as error:
        raise AskFailed(_sentence(host, error)) from None
    text = bytes(content).decode("utf-8", "replace")
    if response.code != 200:
        reason = first_line(text)
        sentence = f"{host} answered with status {response.code}{reason and ': '}{reason}."
        raise AskRefused(sentence, response.code)
    return text


def first_line(text: str) -> str:
    """What a refusal says, fit for a terminal and for the middle of a sentence."""
    line = next(iter(text.strip().splitlines()), "")
    return "".join(c for c in line if c.isprintable())[:_SHOWN].rstrip(".")


def _sentence(host: str, error: BaseException) -> str:
    """Say why there is no answer."""
    from OpenSSL.SSL import Error as TLSError
    from service_identity import VerificationError

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, VerificationError):
            return f"The certificate of {host} is for another name."
        if isinstance(cause, TLSError):
            return _tls_sentence(host, cause)
    for cause in causes:
        if isinstance(cause, ConnectionClosed):
            return f"{host} closed the connection before its answer was complete."
    cause = causes[-1]
    if isinstance(cause, DNSLookupError):
        return f"Cannot reach {host}: its name is not known."
    if isinstance(cause, ConnectError):
        number = cause.osError
        reason = os.strerror(number) if isinstance(number, int) else first_line(str(cause))
        return f"Cannot reach {host}: {reason}."
    return f"{host} did not answer in HTTP."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it wraps."""
    yield error
    for reason in getattr(error, "reasons", ()):
        if isinstance(reason, Failure) and reason.value is not None:
            yield from _causes(reason.value)


def _tls_sentence(host: str, error: BaseException) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reason = str(entries[-1][-1]) if entries else ""
    if "certificate verify failed" in reason:
        return (
            f"The certificate of {host} is not trusted; --ca-file names a file of those to trust."
        )
    return f"Cannot speak TLS with {host}{reason and ': '}{reason}."


# -- the answer --------------------------------------------------------------------------------


def parts_of(answer: str) -> Iterator[str]:
    """Split an answer into one part a command.

    A value that came over TCP may hold a semicolon: a message with data goes to its newline.
    """
    at, newline = 0, -1
    while at < len(answer):
        end = -1
        if _DATA.match(answer, at):
            # Looked for once, however many parts are before it.
            newline = _end_of_message(answer, at) if newline < at else newline
            end = newline + 1 if newline < len(answer) else -1
        if end < 0:
            end = answer.find(";", at)
            end = len(answer) if end < 0 else end
        yield answer[at:end]
        at = end + 1


def _end_of_message(answer: str, at: int) -> int:
    """The newline that ends a part; the length of the answer where there is none."""
    newline = answer.find("\n;", at)
    if newline < 0:
        newline = len(answer) - answer.endswith("\n")
    return newline


def is_error(part: str) -> bool:
    """Tell whether a command was refused: errors have no newline, save for a few."""
    if part in (INVALID, "permission denied\n") or part.startswith("error "):
        return True
    return part != "empty" and not part.endswith("\n")


_EXTENDING = frozenset(
    "\u09be\u09d7\u0b3e\u0b57\u0bbe\u0bd7\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dcf\u0ddf\u1b35\u302e\u302f"
    "\uff9e\uff9f\U0001133e\U00011357\U000114b0\U000114bd\U000115af\U00011930\U0001d165\U0001d16e"
    "\U0001d16f\U0001d170\U0001d171\U0001d172"
)
"""What Unicode calls Other_Grapheme_Extend; with the categories Mn and Me, all that joins."""
_SHORT = {"\0": r"\0", "\t": r"\t", "\n": r"\n", "\r": r"\r", '"': r"\"", "\\": r"\\"}


def quoted(text: str) -> str:
    """Quote and escape a text as Rust's ``{:?}`` does: quotes, backslashes, what cannot be
    seen, and what would join the letter before it."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(letter: str) -> str:
    if letter in _SHORT:
        return _SHORT[letter]
    if letter.isascii():
        return letter if letter.isprintable() else f"\\u{{{ord(letter):x}}}"
    joins = letter in _EXTENDING or unicodedata.category(letter) in ("Mn", "Me")
    return f"\\u{{{ord(letter):x}}}" if joins or not letter.isprintable() else letter
