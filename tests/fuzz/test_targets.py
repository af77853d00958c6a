"""Every target: its seeds, changed seeds, lengths that claim too much, and large inputs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as command_line
from tests.fuzz import growth, running
from tests.fuzz.mutation import EDIT_SIZE, edited, edits_of
from tests.fuzz.seeds import FOLDER, seeds_of
from tests.fuzz.table import TARGETS
from tests.fuzz.target import Target
from tests.fuzz.valid import valid

NAMES = list(TARGETS)
NODES = (
    "tcp",
    "admin",
    "websocket",
    "upgrade",
    "http",
    "start",
    "replay",
    "restore",
    "entries",
    "link",
)
"""Those that make a node, or a link, several times for each input."""
MOST_MEMORY = 24 << 20
"""Bytes that a small input may take, whatever it says of its length."""
CHANGES = st.binary(min_size=2, max_size=2 + 5 * EDIT_SIZE)
"""Which seed, and edits of it, as bytes: one draw costs hypothesis less than twenty."""


def test_each_target_has_seeds_and_each_seed_a_target() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(NAMES)
    assert all(seeds_of(name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_valid_seeds_are_what_is_written_today(name: str) -> None:
    """Where a format has changed: ``python -m tests.fuzz seeds``."""
    kept = [path.read_bytes() for path in sorted((FOLDER / name).glob("valid-*"))]
    assert kept == valid()[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_seed_is_tried(name: str) -> None:
    for data in [b"", *seeds_of(name)]:
        TARGETS[name].run(data)


@pytest.mark.many_cases
@pytest.mark.parametrize("name", NAMES)
def test_changed_seeds(name: str) -> None:
    target, seeds = TARGETS[name], seeds_of(name)

    @settings(max_examples=target.examples)
    @given(CHANGES)
    def check(changes: bytes) -> None:
        seed = seeds[int.from_bytes(changes[:2], "little") % len(seeds)]
        target.run(edited(seed, edits_of(changes[2:]), seeds))

    check()


@pytest.mark.many_cases
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NODES])
def test_a_length_that_claims_too_much_takes_no_memory(name: str) -> None:
    target = TARGETS[name]
    inputs = [data for seed in seeds_of(name)[:1] for data in growth.claims(seed[:4000])]
    target.run(inputs[0])
    tracemalloc.start()
    try:
        for data in inputs:
            target.run(data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.many_cases
@pytest.mark.parametrize("name", NAMES)
def test_time_grows_with_the_input_and_no_faster(name: str) -> None:
    times, seconds, begins = growth.worst(name)
    assert times < growth.MOST_TIMES, f"{seconds:.3f} s for what begins with {begins!r}"


# -- the harness itself --


def _planted(data: bytes) -> None:
    if b"planted" in data:
        raise ZeroDivisionError


def test_a_run_finds_what_is_planted_keeps_it_and_says_how_to_try_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "CORPUS", tmp_path)
    (tmp_path / "host").mkdir()
    monkeypatch.setitem(TARGETS, "host", Target("host", "a test", _planted))
    monkeypatch.setattr(running, "seeds_of", lambda name: [b"harmless", b"a planted b"])
    assert running.blind("host", 20.0, 1) == 1
    (failed,) = (tmp_path / "host").iterdir()
    assert b"planted" in failed.read_bytes()
    assert "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        command_line.main(["try", "host", str(failed)])


def test_a_failure_is_kept_as_a_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "FOLDER", tmp_path)
    (tmp_path / "host").mkdir()
    found = tmp_path / "failed"
    found.write_bytes(b"some input")
    assert command_line.main(["try", "host", str(found)]) == 0
    assert command_line.main(["keep", "host", str(found)]) == 0
    (kept,) = (tmp_path / "host").iterdir()
    assert kept.name.startswith("found-")
    assert kept.read_bytes() == b"some input"
    assert str(kept) in capsys.readouterr().out


def test_a_target_that_is_none_is_told() -> None:
    with pytest.raises(SystemExit, match="There is no target nope"):
        command_line.main(["try", "nope", "file"])
    with pytest.raises(SystemExit, match="There is no target nope"):
        command_line.main(["run", "nope"])


@pytest.mark.parametrize("name", [name for name in NAMES if TARGETS[name].repair is not None])
def test_a_repair_leaves_alone_what_is_right(name: str) -> None:
    repair = TARGETS[name].repair
    assert repair is not None
    for data in valid()[name]:
        if not data.startswith((b"{", b"\x5b")) and name != "snapshot":
            assert repair(data, False) == data
            assert repair(data, True) == data
        assert repair(repair(data, True), True) == repair(data, True)
