"""Watches keys over WebSocket and prints each change at the moment it is made.

    python examples/watch.py DATABASE TOKEN KEY [KEY ...] [--url ws://127.0.0.1:3012]

The first value of each key is printed too, so a front end written like this needs no other
request. When the connection ends it is made again, and the keys are read and watched anew.
"""

from __future__ import annotations

import argparse
import sys

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    connectWS,
)
from twisted.internet import reactor
from twisted.internet.protocol import ReconnectingClientFactory


class Watcher(WebSocketClientProtocol):
    """Selects the database, watches the keys, prints what comes."""

    def onOpen(self) -> None:
        """Send everything at once: the answers come in the order of the commands."""
        self.factory.resetDelay()
        given = self.factory.given
        self.tell(f"use-db {given.database} {given.token}")
        for key in given.keys:
            # Watched first and read then: no change can fall between the two.
            self.tell(f"watch {key}")
            self.tell(f"get {key}")

    def tell(self, command: str) -> None:
        """Send one command."""
        self.sendMessage(command.encode())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Print values, changes and errors; ``ok`` needs no line."""
        word, _, rest = payload.decode().rstrip("\n").partition(" ")
        if word in ("value", "changed", "removed", "error"):
            print(word, rest, flush=True)
        if word == "error" and not self.factory.refused:
            self.factory.refused = True
            sys.stderr.write(f"the node refused: {rest}\n")
            reactor.stop()


class Factory(ReconnectingClientFactory, WebSocketClientFactory):
    """Connects again after a while, each time a little longer."""

    protocol = Watcher
    maxDelay = 5
    refused = False


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Print each change of some keys.")
    parser.add_argument("database")
    parser.add_argument("token")
    parser.add_argument("keys", nargs="+", metavar="key")
    parser.add_argument("--url", default="ws://127.0.0.1:3012")
    given = parser.parse_args()
    factory = Factory(given.url)
    factory.given = given
    connectWS(factory)
    reactor.run()


if __name__ == "__main__":
    main()
