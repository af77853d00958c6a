"""Why TLS could not be agreed on, in words for an operator, with what can be done about it.

OpenSSL says of most things no more than a few words; of a certificate that it does not take it
tells why where it is asked while it looks at it (:func:`note_why`). Some of its words are matched
by a part, as others of its versions begin them in other ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

VERIFY_FAILED: Final = "certificate verify failed"

_OF_CLIENTS: Final = {
    "http request": "it spoke HTTP without TLS: its address is https:// or wss://",
    "wrong version number": "it does not speak TLS, which this port wants",
    "unexpected message": "it does not speak TLS, which this port wants",
    "unsupported protocol": "it speaks none of TLS 1.2 and later",
    "version too low": "it speaks none of TLS 1.2 and later",
    "no shared cipher": "it shares no cipher with this node",
    "alert unknown ca": (
        "it does not know who has signed the certificate of this node: let it trust that authority"
    ),
    "alert certificate expired": (
        "the certificate of this node has ended: put a new one in its place and send SIGHUP"
    ),
    "alert bad certificate": (
        "it does not take the certificate of this node: is it made for the name that is connected"
        " to, and by whom it trusts?"
    ),
    "alert certificate unknown": "it does not trust the certificate of this node",
    "alert unsupported certificate": (
        "the certificate of this node is made for something else: where it says for what, that is"
        " serverAuth"
    ),
}
"""What is wrong with whoever has connected to us, by words of OpenSSL."""

_CERTIFICATES: Final = {
    2: (
        "of an authority that is not in NUN_PEER_CA: give that node one that an authority in it has"
        " signed"
    ),
    9: "that is not valid yet: are the clocks of both right?",
    10: "that has ended: put a new one in its place there",
    26: "that is made for something else: where it says for what, clientAuth has to be among it",
}
_CERTIFICATES_LIKE: Final = {18: 2, 19: 2, 20: 2, 21: 2}
"""What is wrong with a certificate, by number of OpenSSL (X509_V_ERR_…)."""


@dataclass(frozen=True, slots=True)
class FailedTls:
    """A handshake of somebody who has connected to us, which has failed.

    :ivar why: half a sentence; there are few of them.
    :ivar certificate: whether it is due to the certificate that we were shown.
    """

    why: str
    certificate: bool


def note_why(connection: Any, certificate: Any, number: int, depth: int, fits: int) -> bool:
    """Look at a certificate (a callback of OpenSSL): keep why one is not taken."""
    if not fits:
        connection.set_app_data(number)
    return bool(fits)


def failed_tls(transport: Any, reason: Failure) -> FailedTls | None:
    """Tell what was wrong with the handshake of a connection that is gone.

    :param reason: why it is gone.
    :return: None where it had none, it was done, or the other side has just gone away.
    """
    if not isinstance(transport, TLSMemoryBIOProtocol) or not reason.check(SSL.Error):
        return None
    connection: Any = transport.getHandle()
    if connection is None or connection.get_peer_finished() is not None:
        return None
    said = words_of(reason)
    if VERIFY_FAILED in said:
        number = connection.get_app_data()
        why = _CERTIFICATES.get(_CERTIFICATES_LIKE.get(number, number))
        return FailedTls(f"a certificate {why or f'that cannot be used (error {number})'}", True)
    known = (why for word, why in _OF_CLIENTS.items() if word in said)
    return FailedTls(next(known, said), False)


def words_of(reason: Failure) -> str:
    """What a failure says, without what is of use to nobody but a programmer."""
    error = reason.value
    if isinstance(error, SSL.Error):
        # A list of (library, function, reason), the functions being empty by now.
        errors = error.args[0] if error.args and isinstance(error.args[0], list) else []
        return ", ".join(str(one[-1]) for one in errors) or "TLS failed"
    if isinstance(error, VerificationError):
        return "its certificate is of another name"
    return reason.getErrorMessage()
