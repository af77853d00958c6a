"""The certificates of a node's listeners: read anew when told to, and looked at once a day.

One that ends while nobody thinks of it shuts out all at once who look at it. So the log tells of
one that is near its end, or past it, as a listener opens, as it is read anew and each day; and of
the authority of the nodes (``NUN_PEER_CA``) likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from OpenSSL.crypto import Error as CertificateError
from OpenSSL.SSL import Error as SSLError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nuntwist.errors import StartError
from nuntwist.net.tls import Prepare, Renewable, context_of, read_roots, validity_of
from nuntwist.sentences import counted, plainly

ENDPOINT_ERRORS: Final = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    OSError,
    SSLError,
    CertificateError,
)
"""What the parsers of endpoints raise for a wrong text, and for files that cannot be used."""
LOOK_SECONDS: Final = 86_400.0
"""How often certificates are looked at."""
SOON: Final = timedelta(days=14)
"""How long before its end it is told that a certificate ends."""


class Certificates:
    """Those of the listeners of a node, and of the authority that signs for nodes.

    :param wall: seconds since 1970.
    :param peer_ca: where the certificates of that authority are, as for
        :func:`nuntwist.net.tls.asking`; empty where there is none.
    """

    _log = Logger()

    def __init__(self, wall: Callable[[], float], peer_ca: str) -> None:
        self._wall = wall
        self._peer_ca = peer_ca
        self._kept: list[tuple[str, Renewable, Prepare | None]] = []
        self._looking = LoopingCall(self.look)

    def check_authority(self) -> None:
        """Read the certificates of those who sign for nodes, and look at them.

        :raise StartError: they cannot be used.
        """
        try:
            self._look_at_authority()
        except ENDPOINT_ERRORS as error:
            raise StartError(f"NUN_PEER_CA is {self._peer_ca!r}: {plainly(error)}.") from None

    def keep(self, endpoint: str, renewable: Renewable, prepare: Prepare | None) -> None:
        """Look after the certificate of a listener.

        :param endpoint: the string that names it.
        :param prepare: as for :func:`nuntwist.net.tls.context_of`.
        """
        self._kept.append((endpoint, renewable, prepare))
        self._look_at(endpoint, renewable)

    def start(self, clock: Any) -> None:
        """Look at all of them once a day.

        :param clock: an IReactorTime.
        """
        self._looking.clock = clock
        self._looking.start(LOOK_SECONDS, now=False)

    def stop(self) -> None:
        """Look at them no more."""
        if self._looking.running:
            self._looking.stop()

    def renew(self) -> None:
        """Read keys and certificates anew, for connections that come from now on."""
        if not self._kept:
            self._log.info("SIGHUP reads certificates anew; there are none")
        for endpoint, renewable, prepare in self._kept:
            try:
                renewable.current = context_of(endpoint, prepare)
            except ENDPOINT_ERRORS as error:
                self._log.error(
                    "the certificate of {endpoint} cannot be read anew: {why}; the one of before"
                    " stays",
                    endpoint=endpoint,
                    why=plainly(error),
                )
            else:
                valid = validity_of(renewable.current)
                self._log.info(
                    "read the certificate of {endpoint} anew{until}",
                    endpoint=endpoint,
                    until="" if valid is None else f"; it is valid until {_day(valid[1])}",
                )
        self.look()

    def look(self) -> None:
        """Tell of those that nobody takes who looks at them, or soon will."""
        for endpoint, renewable, _ in self._kept:
            self._look_at(endpoint, renewable)
        try:
            self._look_at_authority()
        except ENDPOINT_ERRORS as error:
            self._log.error(
                "NUN_PEER_CA is {path}: {why}; the listeners go on with what they have read",
                path=self._peer_ca,
                why=plainly(error),
            )

    def _look_at(self, endpoint: str, renewable: Renewable) -> None:
        valid = validity_of(renewable.current)
        what = None if valid is None else self._trouble(*valid)
        if what is not None:
            self._log.warn(
                "the certificate of {endpoint} {what}; put another one in its place and send"
                " SIGHUP",
                endpoint=endpoint,
                what=what,
            )

    def _look_at_authority(self) -> None:
        """Tell of it where none of its certificates lasts: an old one may stand by a new one."""
        if not self._peer_ca:
            return
        roots = [root.original.to_cryptography() for root in read_roots(self._peer_ca)]
        last = max(roots, key=lambda root: root.not_valid_after_utc)
        what = self._trouble(last.not_valid_before_utc, last.not_valid_after_utc)
        if what is not None:
            self._log.warn(
                "the certificate of the authority of the nodes (NUN_PEER_CA) {what}; put one more"
                " beside it, on all nodes, and send SIGHUP",
                what=what,
            )

    def _trouble(self, since: datetime, until: datetime) -> str | None:
        """What is wrong with a time in which a certificate is valid, if anything is."""
        now = datetime.fromtimestamp(self._wall(), UTC)
        refused = "whoever looks at it does not connect"
        if now > until:
            return f"was valid until {_day(until)}: {refused}"
        if now < since:
            return f"is not valid before {_day(since)}: {refused}"
        if until - now > SOON:
            return None
        days = (until - now).days
        left = f"for {counted(days, 'more day')}" if days else "for less than a day"
        return f"is valid {left}, until {_day(until)}"


def _day(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")
