"""The file layer: writing all of something, replacing, and the disk in memory that fails."""

from __future__ import annotations

import errno

import pytest

from nuntwist.errors import StartError
from nuntwist.files import MemoryFiles, Stopped, replace_durably, write_all


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def read(files: MemoryFiles, name: str) -> bytes:
    with files.open_read(name) as file:
        return file.read()


def test_a_file_is_appended_to_read_cut_renamed_and_removed(files: MemoryFiles) -> None:
    handle = files.append_to("b")
    assert (handle.size, handle.write(b"hello")) == (0, 5)
    handle.close()
    handle = files.append_to("b")
    handle.write(b" you")
    assert (handle.size, files.size("b"), read(files, "b")) == (9, 9, b"hello you")
    handle.truncate(4)
    handle.write(b"!")
    files.append_to("a")
    assert files.names() == ["a", "b"]
    files.rename("b", "a")
    assert (files.names(), read(files, "a")) == (["a"], b"hell!")
    files.remove("a")
    assert files.names() == []


@pytest.mark.parametrize("operation", ["open_read", "size", "remove"])
def test_a_file_that_is_not_there_is_told(files: MemoryFiles, operation: str) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(files, operation)("a")
    with pytest.raises(FileNotFoundError):
        files.rename("a", "b")


def test_what_is_read_is_what_was_there(files: MemoryFiles) -> None:
    handle = files.append_to("a")
    handle.write(b"one")
    with files.open_read("a") as file:
        handle.write(b"two")
        assert file.read() == b"one"


@pytest.mark.parametrize("at_most", [1, 3, 100])
def test_write_all_goes_on_after_a_short_write(files: MemoryFiles, at_most: int) -> None:
    files.at_most = at_most
    write_all(files.append_to("a"), b"hello you")
    assert read(files, "a") == b"hello you"


@pytest.mark.parametrize("room", range(9))
def test_a_full_disk_takes_what_it_can(files: MemoryFiles, room: int) -> None:
    handle = files.append_to("a")
    files.room = room
    with pytest.raises(OSError, match="No space") as caught:
        write_all(handle, b"hello you")
    assert caught.value.errno == errno.ENOSPC
    assert read(files, "a") == b"hello you"[:room]
    handle.truncate(0)
    assert files.room == room


@pytest.mark.parametrize("operation", ["write", "truncate", "sync", "rename", "remove", "open"])
def test_any_operation_fails_when_told(files: MemoryFiles, operation: str) -> None:
    handle = files.append_to("a")
    files.failing[operation] = errno.EIO
    actions = {
        "write": lambda: handle.write(b"x"),
        "truncate": lambda: handle.truncate(0),
        "sync": handle.sync,
        "rename": lambda: files.rename("a", "b"),
        "remove": lambda: files.remove("a"),
        "open": lambda: files.append_to("a"),
    }
    for name, action in actions.items():
        if name == operation:
            with pytest.raises(OSError, match="Input/output error"):
                action()
    assert files.names() == ["a"]
    if operation == "open":
        with pytest.raises(OSError, match="Input/output error"):
            files.open_read("a")


def test_a_loss_of_power_takes_what_was_not_synced(files: MemoryFiles) -> None:
    handle = files.append_to("a")
    handle.write(b"one")
    handle.sync()
    handle.write(b"two")
    files.append_to("b").write(b"three")
    files.rename("a", "c")
    files.restart(power_lost=True)
    assert {name: read(files, name) for name in files.names()} == {"b": b"", "c": b"one"}


def test_the_end_of_a_process_leaves_half_a_write_and_nothing_after(files: MemoryFiles) -> None:
    handle = files.append_to("a")
    files.stop_at = files.steps + 1
    handle.write(b"whole")
    for action in (
        lambda: handle.write(b"halfhalf"),
        lambda: handle.write(b"not at all"),
        lambda: handle.truncate(0),
        lambda: files.remove("a"),
    ):
        with pytest.raises(Stopped):
            action()
    files.restart()
    assert read(files, "a") == b"wholehalf"
    handle = files.append_to("a")
    handle.write(b"more")


def test_one_user_has_the_directory(files: MemoryFiles) -> None:
    files.lock()
    with pytest.raises(StartError, match="is used by another process"):
        files.lock()
    files.unlock()
    files.lock()
    files.restart()
    files.lock()


# -- replacing -----------------------------------------------------------------------------------


def test_a_replaced_file_is_old_or_new_whatever_happens(files: MemoryFiles) -> None:
    outcomes = []
    for power_lost in (False, True):
        for stop_at in range(9):
            files = MemoryFiles()
            replace_durably(files, "a", b"old one")
            files.stop_at = files.steps + stop_at
            try:
                replace_durably(files, "a", b"the new one")
                ended = False
            except Stopped:
                ended = True
            files.restart(power_lost=power_lost)
            found = read(files, "a")
            outcomes.append(found)
            assert found == b"the new one" or (ended and found == b"old one")
            # What is left of it is in nobody's way.
            replace_durably(files, "a", b"third")
            assert (files.names(), read(files, "a")) == (["a"], b"third")
    assert set(outcomes) == {b"old one", b"the new one"}


@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename"])
def test_a_replacement_that_fails_leaves_the_old_one(files: MemoryFiles, operation: str) -> None:
    replace_durably(files, "a", b"old")
    files.failing[operation] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        replace_durably(files, "a", b"new")
    files.failing.clear()
    assert read(files, "a") == b"old"
