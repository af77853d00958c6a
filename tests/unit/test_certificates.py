"""Certificates that are near their end, or past it: looked at once a day, and told of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from nuntwist.certificates import LOOK_SECONDS, SOON, Certificates
from nuntwist.errors import StartError
from nuntwist.net.tls import Renewable, asking, context_of
from tests.integration.certificates import DAY, Authority

HOUR = timedelta(hours=1)
MEND = "; put another one in its place and send SIGHUP"
REFUSED = ": whoever looks at it does not connect"


class Place:
    """A node's certificate that is valid for some time from now on, and a clock."""

    def __init__(
        self, where: Path, ends: timedelta, begins: timedelta = -DAY, authority: str = ""
    ) -> None:
        self.signer = Authority(where / "ca")
        self.where = where
        key, cert = self.signer.issue(where, begins, ends)
        self.endpoint = f"ssl:0:privateKey={key}:certKey={cert}"
        self.clock = Clock()
        # What is signed now begins a little later than the test does.
        self.began = datetime.now(UTC).timestamp() + 60.0
        self.certificates = Certificates(self.now, authority)
        self.renewable = Renewable(context_of(self.endpoint))

    def now(self) -> float:
        return self.began + self.clock.seconds()

    def keep(self) -> None:
        self.certificates.keep(self.endpoint, self.renewable, None)

    def days(self, number: int) -> None:
        self.clock.pump([LOOK_SECONDS] * number)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged as a warning, or worse."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.warn:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(note)
    yield lines
    globalLogPublisher.removeObserver(note)


def test_once_a_day_from_two_weeks_before_its_end(tmp_path: Path, told: list[str]) -> None:
    place = Place(tmp_path, SOON + 2 * DAY + HOUR)
    place.keep()
    place.certificates.start(place.clock)
    place.days(2)
    assert told == []
    place.days(1)
    (line,) = told
    assert line.startswith(f"the certificate of {place.endpoint} is valid for 13 more days, until")
    assert line.endswith(f" UTC{MEND}")
    place.days(12)
    assert len(told) == 13
    assert " is valid for 1 more day, until 20" in told[-1]
    place.days(1)
    assert " is valid for less than a day, until 20" in told[-1]
    place.days(1)
    assert " was valid until 20" in told[-1]
    assert told[-1].endswith(REFUSED + MEND)
    place.certificates.stop()
    assert place.clock.getDelayedCalls() == []
    place.certificates.stop()


def test_at_the_start(tmp_path: Path, told: list[str]) -> None:
    Place(tmp_path, DAY, begins=DAY / 2).keep()
    Place(tmp_path, DAY).keep()
    assert " is not valid before 20" in told[0]
    assert REFUSED in told[0]
    assert " is valid for less than a day, until 20" in told[1]
    assert len(told) == 2


def test_a_new_one_ends_it(tmp_path: Path, told: list[str]) -> None:
    place = Place(tmp_path, DAY)
    place.keep()
    place.certificates.start(place.clock)
    place.signer.issue(tmp_path, ends=90 * DAY)
    place.days(1)
    # It is on the disk, and nobody has been told to read it.
    assert len(told) == 2
    place.certificates.renew()
    place.days(10)
    assert len(told) == 2
    # A new one that is no better is told of as it is read.
    place.signer.issue(tmp_path, ends=20 * DAY)
    place.certificates.renew()
    assert len(told) == 3
    assert " is valid for 8 more days, until 20" in told[2]
    place.certificates.stop()


def test_the_authority_of_the_nodes(tmp_path: Path, told: list[str]) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    (roots / "one.pem").write_bytes(Authority(tmp_path / "one", ends=DAY / 2).file.read_bytes())
    place = Place(tmp_path, 90 * DAY, authority=str(roots))
    place.certificates.check_authority()
    (line,) = told
    assert "the authority of the nodes (NUN_PEER_CA) is valid for less than a day, until" in line
    assert line.endswith("; put one more beside it, on all nodes, and send SIGHUP")
    # An old one beside a new one may end.
    (roots / "two.pem").write_bytes(Authority(tmp_path / "two", ends=90 * DAY).file.read_bytes())
    place.certificates.start(place.clock)
    place.days(3)
    assert len(told) == 1
    for file in roots.iterdir():
        file.unlink()
    place.days(1)
    assert told[1] == (
        f"NUN_PEER_CA is {roots}: there is no certificate in it; the listeners go on with what"
        " they have read"
    )
    with pytest.raises(StartError, match=r"NUN_PEER_CA is '.+': there is no certificate in it\."):
        place.certificates.check_authority()
    place.certificates.stop()


def test_what_asks_is_made_anew_too(tmp_path: Path, told: list[str]) -> None:
    place = Place(tmp_path, 90 * DAY)
    asks = asking(str(place.signer.file))
    place.certificates.keep(place.endpoint, place.renewable, asks)
    place.certificates.renew()
    assert place.renewable.current.verify
    place.signer.file.unlink()
    place.certificates.renew()
    assert [line.partition(f"{place.endpoint} ")[2] for line in told] == [
        "cannot be read anew: no such file or directory; the one of before stays"
    ]


def test_one_that_another_package_keeps(tmp_path: Path, told: list[str]) -> None:
    place = Place(tmp_path, DAY)
    place.renewable.current = object()
    place.keep()
    place.certificates.look()
    assert told == []
