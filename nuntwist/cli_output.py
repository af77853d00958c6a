"""What a subcommand of ``nun-db`` prints: lines on standard output, sentences on standard error.

Lines go out in pieces, as UTF-8 whatever the locale says, so that a million of them cost little
and none waits in memory for the rest. A reader that has gone, such as ``head``, ends the work
and is no error.
"""

from __future__ import annotations

import contextlib
import os
import sys

PIECE = 1 << 16
"""Characters that are collected before they are written."""


class OutputEnded(Exception):
    """Nothing more can be written; ``status`` is the exit status for it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Lines:
    """Standard output, line by line."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._size = 0

    def say(self, line: str) -> None:
        """Print a line.

        :raise OutputEnded: nobody reads, or it cannot be written.
        """
        self._waiting.append(line)
        self._size += len(line)
        if self._size >= PIECE:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        :raise OutputEnded: nobody reads, or it cannot be written.
        """
        if not self._waiting:
            return
        text = "\n".join([*self._waiting, ""])
        self._waiting, self._size = [], 0
        put(text.encode("utf-8", "replace"))


def put(data: bytes) -> None:
    """Write bytes to standard output.

    :raise OutputEnded: nobody reads, or it cannot be written.
    """
    if sys.stdout is None:
        raise OutputEnded(complain("Cannot write the answer: standard output is closed."))
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _forget_output()
        raise OutputEnded(0) from None
    except OSError as error:
        _forget_output()
        raise OutputEnded(complain(f"Cannot write the answer: {error.strerror}.")) from None


def complain(sentence: str) -> int:
    """Say what is wrong; gives the exit status."""
    # Without a place for complaints the status must do.
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()
    return 1


def _forget_output() -> None:
    """Send the rest nowhere; else Python tries again as it ends, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
