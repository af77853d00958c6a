"""How far a transfer is, on one line of a terminal, and sums in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

_EVERY_SECONDS = 0.2


class Progress:
    """Tells how far it is; says nothing where nobody looks.

    :param stream: standard error; None where there is none.
    :param seconds: a clock that never goes back.
    """

    def __init__(self, stream: TextIO | None, seconds: Callable[[], float]) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._seconds = seconds
        self._began = self._shown = seconds()
        self._what, self._total = "", 0
        self._width = 0

    def begin(self, what: str, total: int) -> None:
        """Begin with something.

        :param what: as in ``entries``, or ``bytes``.
        :param total: how many there will be, about; 0 where nobody knows.
        """
        self._what, self._total = what, total
        self._began = self._seconds()
        self._shown = 0.0

    def show(self, done: int, size: int) -> None:
        """Tell of what is done.

        :param size: bytes.
        """
        now = self._seconds()
        if self._stream is None or now - self._shown < _EVERY_SECONDS:
            return
        self._shown = now
        of = f" of {max(self._total, done):,}" if self._total else ""
        rate = size / max(now - self._began, 0.001) / 1e6
        bytes_too = "" if self._what == "bytes" else f" {size:,} bytes,"
        self._write(f"{done:,}{of} {self._what},{bytes_too} {rate:.1f} MB/s")

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            self._write("")
            self._width = 0

    def _write(self, text: str) -> None:
        assert self._stream is not None
        end = "" if text else "\r"
        try:
            self._stream.write(f"\r{text.ljust(self._width)}{end}")
            self._stream.flush()
        except OSError:
            # The terminal has gone, the work goes on.
            self._stream = None
        self._width = len(text)


def counted(number: int, one: str, many: str = "") -> str:
    """``1 database`` or ``2,000 databases``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def in_seconds(seconds: float) -> str:
    """``in 4.1 s``."""
    return f"in {seconds:.1f} s"
