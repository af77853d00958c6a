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
from nuntwist.testing import FrameConnection, LineConnection, MemoryNode

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
    assert text.startswith("2 keys in conflict go to another arbiter")
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
    assert (case.desk.trays.count, list(table), table._ready, table._stuck) == (0, [], {}, {})
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
