"""Says how many connections have a database selected, and each time that number changes.

    python examples/presence.py DATABASE TOKEN [--host 127.0.0.1] [--port 3014]

The node itself counts in the key ``$connections``; this program only watches it, over TCP,
with the standard library alone.
"""

from __future__ import annotations

import argparse
import socket


def main() -> None:
    """Read the arguments and print until the node goes away."""
    parser = argparse.ArgumentParser(description="Print who is there, as a number.")
    parser.add_argument("database")
    parser.add_argument("token")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3014)
    given = parser.parse_args()
    with socket.create_connection((given.host, given.port)) as connection:
        commands = f"use-db {given.database} {given.token}\nwatch $connections\nget $connections\n"
        connection.sendall(commands.encode())
        for line in connection.makefile(encoding="utf-8"):
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "error":
                raise SystemExit(f"the node refused: {rest}")
            if word == "value":
                print("here:", rest, flush=True)
            elif word == "changed":
                print("here:", rest.partition(" ")[2], flush=True)


if __name__ == "__main__":
    main()
