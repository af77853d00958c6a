"""What the log tells of the address of a node that cannot be reached, and what helps.

It is tried again and again, often for the same reason. So of each reason the log tells once, until
the node is reached; then it tells that, if it has told anything, and begins anew. Where an operator
can do something about a reason, the line says what.
"""

from __future__ import annotations

from typing import Final

from twisted.internet import error
from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.addresses import in_short
from nuntwist.cluster.handshake import NOT_THE_SAME_SECRET, SAME_SECRET
from nuntwist.net.failed_tls import VERIFY_FAILED, words_of

MOST_TOLD: Final = 8
"""How many reasons the log tells of one address, until it is reached again."""
REMEDIES: Final = {
    NOT_THE_SAME_SECRET: SAME_SECRET,
    "is spoken here": "run versions of nuntwist that go together",
    "links need a certificate": (
        "give the address as tls:host:port:certificate=FILE:privateKey=FILE, with a certificate of"
        " this node"
    ),
    "unknown ca": (
        "that node does not trust who has signed the certificate of this one: put one here that an"
        " authority in its NUN_PEER_CA has signed"
    ),
    "certificate expired": (
        "the certificate of this node has ended: put a new one in its place, for links that is all"
    ),
    "alert bad certificate": "that node does not take the certificate of this one",
    "unsupported certificate": (
        "the certificate of this node is made for something else: where it says for what,"
        " clientAuth has to be among it"
    ),
    VERIFY_FAILED: (
        "the certificate of that node has ended, or who has signed it is none whom this one trusts"
        " (trustRoots= in the address)"
    ),
    "wrong version number": "does that port speak TLS? Where it does not, leave out tls:",
    "no line of the handshake": "is that the TCP port of a node that is told of a replica set?",
}
"""What an operator can do about a refusal, by what it says."""
HELP: Final[dict[type[BaseException], str]] = {
    error.ConnectionRefusedError: "is the node started, and does it listen there?",
    error.TimeoutError: "is the machine up, and does every firewall let this through?",
    error.DNSLookupError: "is the name right?",
}
"""What an operator can look at where nobody answers."""


def remedy_for(told: str) -> str:
    """What an operator can do about a refusal; empty where that is not known.

    :param told: all that is known of it.
    """
    return next((remedy for word, remedy in REMEDIES.items() if word in told), "")


def reason_and_help(failure: Failure) -> tuple[str, str]:
    """Why there was no connection, and what an operator can look at; that may be empty."""
    if failure.check(error.ConnectionRefusedError):
        why = "the connection was refused"
    else:
        why = words_of(failure)
    return why, "" if failure.type is None else HELP.get(failure.type, "")


class OutOfReach:
    """What the log has told of one address since the node there was reached last.

    :param address: as it was given, with its options.
    """

    _log = Logger()

    def __init__(self, address: str) -> None:
        self._address = in_short(address)
        self._told: set[str] = set()

    def tell(self, why: str, remedy: str) -> None:
        """The node was not reached: tell why, unless that was told already.

        :param remedy: what an operator can do; empty where that is not known.
        """
        if why in self._told or len(self._told) >= MOST_TOLD:
            return
        self._told.add(why)
        self._log.warn(
            "the node at {address} cannot be reached, and is tried again and again: {why}{remedy}",
            address=self._address,
            why=why.rstrip("."),
            remedy=f": {remedy}" if remedy else "",
        )

    def reached(self) -> None:
        """There is a link with the node."""
        if self._told:
            self._told.clear()
            self._log.info("the node at {address} is reached again", address=self._address)
