"""Several arbiters of one node: each conflict goes to one of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from nuntwist.core.desk import AT_ONCE, LOOK_SECONDS
from nuntwist.core.limits import Limits
from nuntwist.core.settling import Settling
from nuntwist.errors import StorageUnavailable
from nuntwist.testing import FrameConnection, LineConnection, MemoryNode
from nuntwist.values import SET

TIMEOUT = 30.0
UNRESOLVED = "error $$conflitct unresolved"


class Case:
    """A node with a database of the strategy ``arbiter``, and one who writes into it."""

    def __init__(self, timeout: float = TIMEOUT, limits: Limits | None = None) -> None:
        self.node = MemoryNode(limits=limits)
        self.admin("create-user ana secret", "create-user bob hidden")
        self.writer: LineConnection = self.node.tcp()
        self.writer.ask("use-db d t")
        self.desk = self.node.node.desk
        self.desk.start(self.node.clock, timeout)

    def admin(self, *commands: str) -> None:
        self.node.admin("create-db d t arbiter", "use-db d t", *commands).close()

    def pass_time(self, seconds: float) -> None:
        self.node.clock.advance(seconds)
        self.node.settle()

    def arbiter(self, who: str = "t") -> FrameConnection:
        client = self.node.ws()
        assert client.ask(f"use-db d {who}; arbiter")[-1] == "ok \n"
        return client

    def conflicts(self, *keys: str, value: str = "mine") -> None:
        for key in keys:
            answer = self.writer.ask(f"set-safe {key} -5 {value}")
            assert answer.startswith(UNRESOLVED), answer


@pytest.fixture
def case() -> Case:
    return Case()


def asked(client: FrameConnection) -> list[str]:
    """The keys of the conflicts that a client was sent, and nothing else."""
    keys = []
    for message in client.received():
        word, _, _, _, key, *_ = message.split(" ")
        assert word == "resolve", message
        keys.append(key)
    return keys


def decide(client: FrameConnection, messages: list[str], value: str = "decided") -> None:
    for message in messages:
        _, number, database, version, key, *_ = message.split(" ")
        assert client.ask(f"resolve {number} {database} {key} {version} {value}") == ["ok \n"]


def test_keys_are_spread_and_the_conflicts_of_one_stay_together(case: Case) -> None:
    first, second = case.arbiter(), case.arbiter()
    case.conflicts("a", "b", "c", "a", "b", "a")
    assert asked(first) == ["a", "c", "a", "a"]
    assert asked(second) == ["b", "b"]


def test_one_alone_gets_all(case: Case) -> None:
    only = case.arbiter()
    case.conflicts("a", "b", "a")
    assert asked(only) == ["a", "b", "a"]
    # It may ask for all of it anew.
    assert [text.split(" ")[4] for text in only.ask("arbiter")[:-1]] == ["a", "a", "b"]


def test_anybody_with_the_right_may_decide(case: Case) -> None:
    first, second = case.arbiter(), case.arbiter()
    case.conflicts("a")
    messages = first.received()
    decide(second, messages)
    _, number, database, version, key, *_ = messages[0].split(" ")
    late = first.ask(f"resolve {number} {database} {key} {version} late")
    assert late == [f"error no such conflict: $conflicts_a_{number} \n"]
    assert case.writer.ask("get-safe a") == "value-version 0 decided\nok \n"
    # Neither has anything to do any more.
    case.conflicts("b", "c")
    assert (asked(second), asked(first)) == (["b"], ["c"])


def leave(case: Case, client: FrameConnection) -> None:
    client.close()


def select_another(case: Case, client: FrameConnection) -> None:
    assert client.ask("use-db $admin nun-pwd") == ["ok \n"]


def become_another(case: Case, client: FrameConnection) -> None:
    """Somebody who decides nothing."""
    case.admin("set-permissions bob rw *")
    assert client.ask("use-db d bob hidden") == ["ok \n"]


def lose_the_right(case: Case, client: FrameConnection) -> None:
    case.admin("set-permissions ana rw *")


def lose_the_right_to_some(case: Case, client: FrameConnection) -> None:
    case.admin("set-permissions ana a other*")


def be_signed_out(case: Case, client: FrameConnection) -> None:
    case.admin("drop-user ana")


@pytest.mark.parametrize(
    "end",
    [
        *(leave, select_another, become_another),
        *(lose_the_right, lose_the_right_to_some, be_signed_out),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_what_one_that_goes_had_is_for_another(
    case: Case, end: Callable[[Case, FrameConnection], None], before: bool
) -> None:
    case.admin("set-permissions ana a *")
    first = case.arbiter("ana secret")
    if before:
        second = case.arbiter()
    case.conflicts("a", "b", "a")
    first.received()
    if before:
        assert asked(second) == ["b"]
    end(case, first)
    if before:
        assert asked(second) == ["a", "a"]
    else:
        # What is there waits, and is given to whoever comes.
        second = case.node.ws()
        messages = second.ask("use-db d t; arbiter")[1:-1]
        assert [text.split(" ")[4] for text in messages] == ["a", "a", "b"]
        decide(second, messages)
    case.conflicts("c")
    assert asked(second) == ["c"]
    assert [text for text in first.received() if text.startswith("resolve")] == []


def test_whoever_may_only_decide_some_gets_no_others(case: Case) -> None:
    case.admin("set-permissions ana a a*|a both", "set-permissions bob a b*")
    ana, bob = case.arbiter("ana secret"), case.arbiter("bob hidden")
    case.conflicts("apple", "bean", "banana", "both")
    assert (asked(ana), asked(bob)) == (["apple", "both"], ["bean", "banana"])
    assert case.writer.ask("set-safe x -5 1").startswith("error An conflitct happend")
    case.admin("set-permissions bob a *")
    case.conflicts("x")
    assert asked(bob) == ["x"]
    # An admin may decide all, as soon as it is one.
    ana.ask("auth nun nun-pwd")
    case.conflicts("bulb")
    assert asked(ana) == ["bulb"]


def test_what_nobody_may_decide_any_more_waits_for_one_who_may(case: Case) -> None:
    case.admin("set-permissions ana a *")
    ana = case.arbiter("ana secret")
    case.conflicts("a", "b")
    ana.received()
    case.admin("set-permissions ana a b")
    case.conflicts("a", "b")
    assert asked(ana) == ["b"]
    case.admin("set-permissions ana a *")
    assert asked(ana) == ["a", "a"]


def test_one_that_does_not_decide_in_time_loses_it_to_another(case: Case) -> None:
    first, second = case.arbiter(), case.arbiter()
    case.conflicts("a", "b", "c", "a")
    messages = second.received()
    first.received()
    case.pass_time(TIMEOUT - 2)
    decide(second, messages)
    case.conflicts("b")
    assert asked(second) == ["b"]
    with capturedLogs() as logged:
        case.pass_time(2 + LOOK_SECONDS)
    assert asked(second) == ["a", "a", "c"]
    assert asked(first) == []
    assert case.node.node.counters.conflicts_moved == 2
    (text,) = [formatEvent(event) for event in logged]
    assert "NUN_ARBITER_TIMEOUT" in text
    assert text.startswith("keys in conflict that go to another arbiter: 2;")
    # What comes later is for the one that has it now, which is good as long as it decides.
    case.conflicts("a", "d")
    assert asked(second) == ["a", "d"]


def test_with_one_alone_nothing_is_sent_again(case: Case) -> None:
    first = case.arbiter()
    case.conflicts("a")
    first.received()
    case.pass_time(20 * TIMEOUT)
    assert first.received() == []
    assert case.node.node.counters.conflicts_moved == 0
    # Another one gets it soon.
    second = case.arbiter()
    case.pass_time(LOOK_SECONDS)
    assert asked(second) == ["a"]


def test_the_time_may_be_any() -> None:
    case = Case(timeout=0.0)
    first, second = case.arbiter(), case.arbiter()
    case.conflicts("a")
    case.pass_time(1e5)
    assert (asked(first), asked(second)) == (["a"], [])


def test_too_many_are_refused() -> None:
    case = Case(limits=Limits(arbiters=2))
    first, _ = case.arbiter(), case.arbiter()
    third = case.node.ws()
    assert third.ask("use-db d t; arbiter")[-1] == "error too many arbiters: a node takes 2 \n"
    # One that is one already may say so again.
    assert first.ask("arbiter") == ["ok \n"]
    first.close()
    assert third.ask("arbiter") == ["ok \n"]


def test_a_user_whose_name_is_too_long_to_be_told_of_is_refused() -> None:
    case = Case(limits=Limits(key=1 << 20))
    short, long = "s" * 4_096, "l" * 4_097
    case.admin(*(f"create-user {name} secret" for name in (short, long)))
    case.admin(*(f"set-permissions {name} a *" for name in (short, long)))
    first = case.arbiter(f"{short} secret")
    client = case.node.ws()
    _, refused = client.ask(f"use-db d {long} secret; arbiter")
    assert refused.startswith("error the user name of an arbiter, ")
    assert refused.endswith(" have at most 4096 bytes together \n")
    # Nor does one that is an arbiter stay it as such a user.
    assert first.ask(f"use-db d {long} secret") == ["ok \n"]
    assert case.desk.trays.count == 0


def test_many_keys_go_to_others_in_turns(case: Case) -> None:
    case.desk.table.window = 10 * AT_ONCE
    first, second = case.arbiter(), case.arbiter()
    keys = [f"k{number}" for number in range(5 * AT_ONCE)]
    case.conflicts(*keys)
    first.received()
    seen = asked(second)
    first.protocol.connectionLost(Failure(ConnectionDone()))
    assert len(list(case.desk.table)) == len(seen) + AT_ONCE
    case.node.settle()
    assert sorted(seen + asked(second)) == sorted(keys)


def test_conflicts_of_before_a_restart_are_given_to_whoever_comes(case: Case) -> None:
    case.arbiter()
    case.conflicts("a", "b", "a")
    again = MemoryNode(case.node.oplog, case.node.storage)
    first = again.ws()
    messages = first.ask("use-db d t; arbiter")[1:-1]
    assert [text.split(" ")[4] for text in messages] == ["a", "a", "b"]


def test_a_new_epoch_of_a_node_alone_gives_nothing_twice(case: Case) -> None:
    first = case.arbiter()
    case.conflicts("a")
    first.received()
    case.node.admin("debug force-election").close()
    assert first.received() == []
    case.conflicts("a")
    assert asked(first) == ["a"]


def test_a_database_that_is_dropped_leaves_nothing(case: Case) -> None:
    first = case.arbiter()
    case.conflicts("a", "b")
    first.received()
    case.node.admin("drop-db d").close()
    table = case.desk.table
    assert (case.desk.trays.count, list(table), table.is_waiting, table._cases) == (
        0,
        [],
        False,
        {},
    )
    assert (case.desk.trays._holders, case.desk.trays._trays) == ({}, {})
    case.admin()
    assert first.ask("use-db d t; arbiter") == ["ok \n", "ok \n"]


def test_what_is_settled_by_time_is_nobodys_own(case: Case) -> None:
    settling = Settling(case.node.node, case.node.clock, 60.0, 0.0)
    case.arbiter()
    case.conflicts("a", "b", "a")
    case.pass_time(61.0)
    settling.look()
    assert case.node.node.counters.conflicts_settled == 2
    assert list(case.desk.table) == []


# -- the window ---------------------------------------------------------------------------------


def windowed(window: int) -> Case:
    return Case(limits=Limits(arbiter_window=window))


def keys_of(messages: list[str]) -> list[str]:
    return [text.split(" ")[4] for text in messages if text.startswith("resolve ")]


def test_one_is_sent_its_window_at_once_and_the_next_after_each_answer() -> None:
    case = windowed(2)
    case.arbiter().close()
    client = case.arbiter()
    case.conflicts("a", "b", "c", "a")
    messages = client.received()
    assert keys_of(messages) == ["a", "b"]
    _, number, *_ = messages[0].split(" ")
    client.send(f"resolve {number} d a 1 decided")
    # First the answer.
    answer, following = client.received()
    assert (answer, keys_of([following])) == ("ok \n", ["c"])
    # It asks anew for what it has: no more than that.
    assert keys_of(client.ask("arbiter")) == ["b", "c"]


def test_what_is_pending_is_sent_at_once_up_to_the_window() -> None:
    case = windowed(3)
    client = case.arbiter()
    case.conflicts(*"abcdef")
    client.close()
    client = case.node.ws()
    seen = client.ask("use-db d t; arbiter")
    assert (seen[0], seen[-1], keys_of(seen)) == ("ok \n", "ok \n", ["a", "b", "c"])
    second = case.arbiter()
    case.conflicts("g")
    assert asked(second) == []
    assert keys_of(second.ask("arbiter")) == ["d", "e", "f"]


def test_ten_thousand_conflicts_close_nobody() -> None:
    """All at once would be more than may wait for a connection."""
    many, long = 10_000, "v" * 100
    limits = Limits(arbiter_window=500, output_high_water=4_096, output_limit=64 << 10)
    case = Case(limits=limits)
    case.arbiter()
    for number in range(many):
        case.conflicts(f"k{number}", value=long)
    client = case.arbiter()
    case.desk.trays.client(1).outlet.abort("it goes")  # type: ignore[union-attr]  # it is there
    case.node.settle()
    decided = 0
    messages = client.ask("arbiter")[:-1]
    # A quarter of what may wait for it counts, too.
    assert 50 < len(messages) < 200
    assert sum(map(len, messages)) <= limits.output_limit // 4
    while messages:
        following: list[str] = []
        for message in messages:
            number, key = message.split(" ")[1], message.split(" ")[4]
            client.send(f"resolve {number} d {key} 5 decided")
            following += [text for text in client.received() if text.startswith("resolve ")]
            decided += 1
        messages = following
    assert decided == many
    assert case.node.node.counters.watchers_closed == 0


def test_one_conflict_may_be_as_long_as_can_be() -> None:
    case = Case(limits=Limits(output_limit=4_000, output_high_water=1_000))
    client = case.arbiter()
    case.conflicts("a", "b", value="v" * 2_000)
    assert asked(client) == ["a"]
    message, _ = client.ask("arbiter")
    answer, following = client.ask(f"resolve {message.split(' ')[1]} d a 1 decided")
    assert (answer, keys_of([following])) == ("ok \n", ["b"])


def fail(*details: object) -> object:
    raise StorageUnavailable("full")


def test_an_answer_that_could_not_be_logged_leaves_its_conflict_open_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = windowed(1)
    client = case.arbiter()
    case.conflicts("a", "b")
    (message,) = client.received()
    with monkeypatch.context() as broken:
        broken.setattr(case.node.oplog, "append", fail)
        answer, *following = client.ask(f"resolve {message.split(' ')[1]} d a 1 decided")
    assert answer.startswith("error storage unavailable")
    assert keys_of(following) == ["b"]
    case.pass_time(10.0)
    decide_all(client, [message, *following])
    assert keys_of(client.received()) == []
    assert case.writer.ask("get-safe a").startswith("value-version 2 decided")
    assert list(case.desk.table) == []


def decide_all(client: FrameConnection, messages: list[str]) -> None:
    for message in messages:
        number, key = message.split(" ")[1], message.split(" ")[4]
        assert client.ask(f"resolve {number} d {key} 1 decided")[0] == "ok \n"


def test_a_conflict_of_before_is_sent_though_the_log_takes_nothing_of_that_moment(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = case.arbiter()
    case.conflicts("a")
    client.received()
    pipeline = case.node.node.pipeline
    database = case.node.node.catalogue.by_name[b"d"]
    ((number, _),) = case.desk.trays.all()
    (conflict,) = database.conflicts[b"a"]
    monkeypatch.setattr(case.node.oplog, "append", fail)
    pipeline.change(database, SET, b"x", b"1", 0)
    case.desk.trays.hand(database, (database.number, b"a"), conflict, number)
    pipeline.commit()
    case.node.settle()
    assert database.value(b"x") is None
    assert asked(client) == ["a"]


# -- nobody decides -----------------------------------------------------------------------------


def test_that_nobody_decides_is_said_once_and_counted(case: Case) -> None:
    first, second = case.arbiter(), case.arbiter()
    case.conflicts("a", "b", "c")
    sent = len(asked(first) + asked(second))
    with capturedLogs() as logged:
        case.pass_time(3_000.0)
    sent += len(asked(first) + asked(second))
    texts = [formatEvent(event) for event in logged]
    assert len([text for text in texts if "go to another arbiter" in text]) <= 2
    (text,) = [text for text in texts if "that no arbiter decides: " in text]
    assert "keys of the database d" in text
    assert ": 3 of 3 in conflict;" in text
    assert "NUN_CONFLICT_TIMEOUT" in text
    counters = case.node.node.counters
    assert counters.conflicts_moved == sent - 3
    # Every thirty seconds it would have been 300.
    assert 15 < sent < 40
    assert 10 < counters.conflicts_undecided < 30
    with capturedLogs() as logged:
        case.pass_time(7_200.0)
    texts = [formatEvent(event) for event in logged]
    assert ["that no arbiter decides: " in text for text in texts] == [True, True]


def test_of_one_alone_that_decides_nothing_it_is_said_too(case: Case) -> None:
    client = case.arbiter()
    case.conflicts("a")
    with capturedLogs() as logged:
        case.pass_time(10 * TIMEOUT)
    (text,) = [formatEvent(event) for event in logged]
    assert text.startswith("keys of the database d that no arbiter decides: 1 of ")
    assert case.node.node.counters.conflicts_undecided == 1
    assert asked(client) == ["a"]


def test_many_that_go_to_another_are_told_of_once_a_minute(case: Case) -> None:
    silent, working = case.arbiter(), case.arbiter()
    with capturedLogs() as logged:
        for number in range(120):
            case.conflicts(f"k{number}")
            decide(working, [one for one in working.received() if one.startswith("resolve ")])
            case.pass_time(1.0)
        case.pass_time(60.0)
    silent.close()
    texts = [formatEvent(event) for event in logged]
    moved = [
        int(text.split(": ")[1].split(";")[0]) for text in texts if "go to another arbiter" in text
    ]
    assert 1 <= len(moved) <= 3
    # None goes without being told of.
    assert sum(moved) == case.node.node.counters.conflicts_moved
