"""An arbiter on any node of a set serves the set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nuntwist.cluster.arbiters import WAIT_SECONDS, Assigned
from nuntwist.core import access
from nuntwist.testing import EPOCH_2026, FrameConnection
from tests.unit.forwarding_set import answers, at
from tests.unit.memory_set import MemorySet
from tests.unit.test_recovery import state
from tests.unit.test_signed import SECRET, signed

NO_ARBITER = "error An conflitct happend and there is no arbiter client not connected \n"
UNRESOLVED = "error $$conflitct unresolved $conflicts_k_"


@pytest.fixture
def three() -> MemorySet:
    """A set whose primary is the first and has been so for a while."""
    nodes = MemorySet()
    nodes.run(2.0)
    admin = nodes.nodes[1].admin("create-db d t arbiter", "use-db d t", "create-user ana secret")
    admin.ask("set k first")
    admin.close()
    nodes.run(2 * WAIT_SECONDS)
    return nodes


def arbiter(nodes: MemorySet, me: int, use: str = "use-db d t") -> FrameConnection:
    """One that is connected to a node."""
    client = nodes.nodes[me].ws()
    assert client.ask(use) == ["ok \n"]
    assert client.ask("arbiter")[-1] == "ok \n"
    nodes.run(0.1)
    return client


def conflict(nodes: MemorySet, me: int, value: str = "mine", key: str = "k") -> str:
    """What the writer of a conflict at a node is answered."""
    return answers(nodes, at(nodes, me), f"set-safe {key} -5 {value}")


def decided(nodes: MemorySet, client: FrameConnection, value: str) -> list[str]:
    """An arbiter's answers to all that it was sent."""
    said = []
    for message in client.received():
        _, number, database, version, key = message.split(" ")[:5]
        client.send(f"resolve {number} {database} {key} {version} {value}")
        nodes.run(0.1)
        said += [text for text in client.received() if not text.startswith("resolve ")]
    return said


@pytest.mark.parametrize("where", [1, 2, 3])
@pytest.mark.parametrize("writer", [1, 2, 3])
def test_conflicts_of_any_node_reach_it_and_its_answers_count(
    three: MemorySet, where: int, writer: int
) -> None:
    client = arbiter(three, where)
    assert conflict(three, writer).startswith(UNRESOLVED)
    assert decided(three, client, "decided") == ["ok \n"]
    assert at(three, writer).ask("get-safe k") == "value-version 1 decided\nok \n"
    three.run(0.2)
    assert state(three.nodes[2]) == state(three.nodes[3]) == state(three.nodes[1])


def test_without_one_on_any_node_it_is_said(three: MemorySet) -> None:
    assert conflict(three, 2) == NO_ARBITER
    client = arbiter(three, 3)
    assert conflict(three, 2).startswith(UNRESOLVED)
    decided(three, client, "decided")
    client.close()
    three.run(0.1)
    assert conflict(three, 2) == NO_ARBITER
    # One who selects another database is none of this one any more.
    client = arbiter(three, 3)
    assert client.ask("use-db $admin nun-pwd") == ["ok \n"]
    three.run(0.1)
    assert conflict(three, 2) == NO_ARBITER


def test_one_at_a_node_that_is_cut_off_counts_for_nothing(three: MemorySet) -> None:
    arbiter(three, 3)
    three.isolate(3)
    three.run(3.0)
    assert conflict(three, 2) == NO_ARBITER
    three.heal()
    three.run(3.0)
    assert conflict(three, 2).startswith(UNRESOLVED)


def test_a_new_primary_learns_of_it(three: MemorySet) -> None:
    client = arbiter(three, 3)
    three.kill(1)
    three.run(2 + 2 * WAIT_SECONDS)
    assert three.primary() != 1
    assert conflict(three, 2).startswith(UNRESOLVED)
    assert decided(three, client, "decided") == ["ok \n"]


def test_a_new_primary_does_not_say_at_once_that_there_is_none(three: MemorySet) -> None:
    """Until it knows its members' lists a conflict is kept, for whoever is arbiter next."""
    three.kill(1)
    primary = 1
    while primary == 1:
        three.run(0.01)
        now = three.clock.seconds()
        serving = [me for me in (2, 3) if three.members[me].election.serves(now)]
        primary = next(iter(serving), 1)
    writer = at(three, primary)
    writer.send("set-safe k -5 mine")
    three.run(0.005)
    assert writer.received().startswith(UNRESOLVED)
    three.run(2 * WAIT_SECONDS)
    three.nodes[primary].admin("use-db d t", "set other 1").close()
    assert conflict(three, primary, key="other") == NO_ARBITER
    client = three.nodes[primary].ws()
    client.ask("use-db d t")
    assert [text.split(" ")[0] for text in client.ask("arbiter")] == ["resolve", "ok"]


def test_only_what_it_has_a_right_to_reaches_it(three: MemorySet) -> None:
    admin = three.nodes[2].admin("use-db d t")
    answers(three, admin, "set-permissions ana a k*")
    answers(three, admin, "set other 1")
    client = arbiter(three, 3, "use-db d ana secret")
    everybody = arbiter(three, 1)
    assert conflict(three, 2, key="other").startswith("error $$conflitct unresolved")
    assert client.received() == []
    assert len(everybody.received()) == 1
    # Of the two who may decide this one, it is the one that has less to do.
    assert conflict(three, 2).startswith(UNRESOLVED)
    assert len(client.received()) == 1
    assert everybody.received() == []
    # Without the right it is none any more, and its node says so.
    everybody.close()
    answers(three, admin, "set-permissions ana r k*")
    answers(three, admin, "set third 1")
    assert conflict(three, 2, key="third") == NO_ARBITER


def test_one_that_is_behind_sends_in_order_what_the_word_names(three: MemorySet) -> None:
    client = arbiter(three, 3)
    conflicts(three, "k", "k", "other")
    asked(client)
    trays, journal = three.nodes[3].node.desk.trays, three.nodes[3].node.pipeline.journal
    ((number, _),) = trays.all()
    database = three.nodes[3].node.catalogue.by_name[b"d"]
    trays.take((database.number, b"k"))
    first, second = database.conflicts[b"k"]
    # The second relies on less, and comes behind the first all the same.
    trays.given(database.number, first, number, journal.index + 8)
    trays.given(database.number, second, number, 1)
    conflicts(three, "other")
    assert asked(client) == ["other"]
    conflicts(three, *["other"] * 4)
    keys = [text.split(" ")[4:6] for text in client.received()]
    chain = [["k", "first"], ["k", first.decode()]]
    assert [words for words in keys if words[0] == "k"] == chain


# -- several ------------------------------------------------------------------------------------


KEYS = ("k", "other", "third", "fourth")


def conflicts(nodes: MemorySet, *keys: str, me: int = 2) -> None:
    """Keys come into conflict."""
    for key in keys:
        assert conflict(nodes, me, key=key).startswith("error $$conflitct unresolved")


def asked(client: FrameConnection) -> list[str]:
    """The keys of the conflicts that a client was sent, and nothing else."""
    return [text.split(" ")[4] for text in client.received()]


def open_keys(nodes: MemorySet, me: int) -> list[bytes]:
    """The keys in conflict, as a node has it."""
    return list(nodes.nodes[me].node.catalogue.by_name[b"d"].conflicts)


@pytest.fixture
def several(three: MemorySet) -> tuple[MemorySet, list[FrameConnection]]:
    """One at each node, with keys that have a value."""
    admin = three.nodes[1].admin("use-db d t", *(f"set {key} 1" for key in KEYS))
    admin.close()
    three.run(0.1)
    for node in three.nodes.values():
        node.node.desk.start(three.clock, 30.0)
    return three, [arbiter(three, me) for me in (1, 2, 3)]


Several = tuple[MemorySet, list[FrameConnection]]


def test_each_conflict_goes_to_one(several: Several) -> None:
    nodes, clients = several
    conflicts(nodes, *KEYS, "other", "k")
    # The first has the fourth key, too.
    assert [asked(client) for client in clients] == [["k", "fourth", "k"], ["other"] * 2, ["third"]]


def test_what_one_that_leaves_had_goes_to_others(several: Several) -> None:
    nodes, clients = several
    conflicts(nodes, *KEYS)
    before = [asked(client) for client in clients]
    for gone in (2, 1):
        clients[gone].close()
        nodes.run(0.1)
        conflicts(nodes, KEYS[gone])
    assert sorted(before[0] + asked(clients[0])) == sorted([*KEYS, "third", "other"])
    for _ in KEYS:
        decided(nodes, clients[0], "decided")
    assert open_keys(nodes, 1)
    client = arbiter(nodes, 2)
    clients[0].close()
    nodes.run(0.1)
    decided(nodes, client, "decided")
    assert [open_keys(nodes, me) for me in (1, 2, 3)] == [[], [], []]


def test_what_one_at_a_node_that_is_cut_off_had_goes_to_others(several: Several) -> None:
    nodes, clients = several
    conflicts(nodes, *KEYS)
    assert [asked(client) for client in clients[:2]] == [["k", "fourth"], ["other"]]
    nodes.isolate(3)
    nodes.run(3.0)
    assert asked(clients[0]) + asked(clients[1]) == ["third"]
    nodes.heal()
    nodes.run(3.0)
    conflicts(nodes, "third")
    assert asked(clients[0]) + asked(clients[1]) == ["third"]
    assert asked(clients[2]) == ["third"]
    # It is counted in again.
    conflicts(nodes, "fifth")
    assert asked(clients[2]) == ["fifth"]


def test_one_that_does_not_answer_loses_it_to_one_of_another_node(several: Several) -> None:
    nodes, clients = several
    conflicts(nodes, *KEYS)
    for client in (clients[0], clients[2]):
        decided(nodes, client, "decided")
    assert open_keys(nodes, 1) == [b"other"]
    nodes.run(32.0)
    assert nodes.nodes[1].node.counters.conflicts_moved == 1
    conflicts(nodes, "other")
    # The second node has been told that it is none of its own any more.
    assert [asked(client) for client in clients] == [[], ["other"], ["other", "other"]]


class Decider:
    """An arbiter that remembers what it was sent.

    :ivar messages: by number, what it has not decided.
    """

    def __init__(self, nodes: MemorySet, client: FrameConnection) -> None:
        self.nodes, self.client = nodes, client
        self.messages: dict[str, str] = {}
        self.all: list[str] = []

    def keys(self) -> list[str]:
        """Of what it is sent now."""
        return [self._take(text) for text in self.client.received() if text.startswith("resolve ")]

    def _take(self, text: str) -> str:
        _, number, _, _, key, *_ = text.split(" ")
        self.messages[number] = text
        self.all.append(number)
        return key

    def decide(self, key: str) -> None:
        """Decide the oldest one of a key."""
        number, message = next(one for one in self.messages.items() if one[1].split(" ")[4] == key)
        del self.messages[number]
        self.client.send(f"resolve {number} d {key} {message.split(' ')[3]} decided")
        self.nodes.run(0.1)


def with_windows(nodes: MemorySet, window: int) -> None:
    for node in nodes.nodes.values():
        node.node.desk.table.window = window


def test_windows_are_kept_on_any_node_and_the_next_comes_as_one_decides(several: Several) -> None:
    nodes, clients = several
    with_windows(nodes, 1)
    clients[1].close()
    nodes.run(0.1)
    first, second = Decider(nodes, clients[0]), Decider(nodes, clients[2])
    conflicts(nodes, *KEYS, "k")
    assert (first.keys(), second.keys()) == (["k"], ["other"])
    first.decide("k")
    second.decide("other")
    # What is behind the first of its key is nobody's now, and comes in its turn.
    assert (first.keys(), second.keys()) == (["third"], ["fourth"])
    # One at a node that has room takes what waits.
    third = Decider(nodes, arbiter(nodes, 2))
    assert (first.keys(), second.keys(), third.keys()) == ([], [], ["k"])
    for one, key in ((first, "third"), (second, "fourth"), (third, "k")):
        one.decide(key)
    assert [open_keys(nodes, me) for me in (1, 2, 3)] == [[], [], []]


def test_windows_are_kept_by_the_next_primary_which_gives_all(several: Several) -> None:
    nodes, clients = several
    with_windows(nodes, 1)
    conflicts(nodes, *KEYS, "k", "other")
    for client in clients:
        asked(client)
    pending = nodes.nodes[2].node.catalogue.by_name[b"d"].conflicts
    numbers = [name.decode().rpartition("_")[2] for of_key in pending.values() for name in of_key]
    nodes.kill(1)
    nodes.run(2 + 2 * WAIT_SECONDS)
    deciders = [Decider(nodes, client) for client in clients[1:]]
    for _ in range(10):
        for one in deciders:
            one.keys()
            assert len(one.messages) <= 1
            for message in tuple(one.messages.values()):
                one.decide(message.split(" ")[4])
    assert open_keys(nodes, 2) == open_keys(nodes, 3) == []
    assert sorted(deciders[0].all + deciders[1].all) == sorted(numbers)


def test_what_a_failover_brings_is_given_afresh_to_all_that_are_left(several: Several) -> None:
    nodes, clients = several
    conflicts(nodes, *KEYS, "k")
    asked(clients[1])
    asked(clients[2])
    nodes.kill(1)
    nodes.run(2 + 2 * WAIT_SECONDS)
    shares = [asked(client) for client in clients[1:]]
    assert sorted(shares[0] + shares[1]) == sorted([*KEYS, "k"])
    assert all(len(set(share)) == 2 for share in shares)
    conflicts(nodes, *KEYS)
    assert [set(asked(client)) for client in clients[1:]] == [set(share) for share in shares]


def test_one_that_comes_to_any_node_is_sent_what_nobody_has(three: MemorySet) -> None:
    client = arbiter(three, 2)
    conflicts(three, "k", "other", "k")
    client.close()
    three.run(0.1)
    conflicts(three, "k")
    later = arbiter(three, 3)
    assert asked(later) == ["k", "k", "k", "other"]


def test_rights_are_those_that_the_primary_knows(several: Several) -> None:
    nodes, clients = several
    for client in clients:
        client.close()
    admin = nodes.nodes[2].admin("use-db d t")
    answers(nodes, admin, "set-permissions ana a k")
    ana, token = arbiter(nodes, 3, "use-db d ana secret"), arbiter(nodes, 2)
    conflicts(nodes, "k")
    assert asked(ana) == ["k"]
    answers(nodes, admin, "set-permissions ana a other")
    nodes.run(0.1)
    assert asked(token) == ["k"]
    answers(nodes, admin, "set-permissions all rw *|a k")
    conflicts(nodes, "other")
    assert (asked(ana), asked(token)) == (["other"], [])
    assert conflict(nodes, 2, key="third") == NO_ARBITER
    # As an admin it may decide all.
    assert token.ask("auth nun nun-pwd")[-1] == "ok \n"
    nodes.run(0.1)
    conflicts(nodes, "third")
    assert asked(token) == ["third"]


@pytest.mark.parametrize("late", [False, True])
def test_the_word_of_the_primary_may_come_before_the_operations_or_after_them(
    three: MemorySet, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = arbiter(three, 3)
    held: list[Any] = []
    desk = three.nodes[3].node.desk.trays
    given = desk.given
    if late:
        monkeypatch.setattr(desk, "given", lambda *details: held.append(details))
    else:
        # It is behind: operations come later than anything else.
        records = three.members[3].pursuit.received

        def received(node: int, message: Any) -> None:
            three.clock.callLater(0.5, records, node, message)

        monkeypatch.setattr(three.members[3].pursuit, "received", received)
    conflicts(three, "k", "k")
    assert asked(client) == []
    if late:
        three.run(0.5)
        monkeypatch.setattr(desk, "given", given)
        for details in held:
            given(*details)
    three.run(0.5)
    assert asked(client) == ["k", "k"]
    conflicts(three, "k")
    three.run(0.6)
    assert asked(client) == ["k"]


def test_what_was_decided_before_the_word_has_come_is_not_sent(
    three: MemorySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = arbiter(three, 3)
    desk = three.nodes[3].node.desk
    ((number, _),) = desk.trays.all()
    database = three.nodes[3].node.catalogue.by_name[b"d"].number
    desk.trays.given(database, b"$conflicts_k_1", number, 1)
    desk.trays.given(database, b"$conflicts_k_2", number, 10**6)
    assert asked(client) == []
    # Its own for a moment, and then another's, before the operations have come.
    given = desk.trays.given
    monkeypatch.setattr(desk.trays, "given", lambda *details: None)
    index = three.nodes[3].node.pipeline.journal.index
    held = three.nodes[1].node.pipeline.journal.stamps.next
    numbers: list[int] = []

    def next_number() -> int:
        numbers.append(held())
        if len(numbers) == 1:
            given(database, b"$conflicts_k_%d" % numbers[0], number, index + 1)
            given(database, b"k", 0, 0)
        return numbers[-1]

    monkeypatch.setattr(three.nodes[1].node.pipeline.journal.stamps, "next", next_number)
    conflicts(three, "k")
    assert numbers
    assert asked(client) == []


def test_one_that_has_lost_the_right_is_sent_nothing_before_the_primary_says_so(
    three: MemorySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = three.nodes[2].admin("use-db d t")
    answers(three, admin, "set-permissions ana a *")
    client = arbiter(three, 3, "use-db d ana secret")
    conflicts(three, "k")
    assert asked(client) == ["k"]
    monkeypatch.setattr(three.nodes[3].node.desk.trays, "given", lambda *details: None)
    answers(three, admin, "set-permissions ana a other")
    conflicts(three, "k")
    assert asked(client) == []


def test_a_right_that_its_node_has_not_heard_of_yet_counts(
    three: MemorySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = three.nodes[1].admin("use-db d t")
    answers(three, admin, "set-permissions ana a other")
    client, everybody = arbiter(three, 3, "use-db d ana secret"), arbiter(three, 1)
    conflicts(three, "k")
    everybody.close()
    three.run(0.1)
    records = three.members[3].pursuit.received

    def received(node: int, message: Any) -> None:
        three.clock.callLater(0.5, records, node, message)

    monkeypatch.setattr(three.members[3].pursuit, "received", received)
    answers(three, admin, "set-permissions ana a *")
    assert asked(client) == []
    three.run(1.0)
    assert asked(client) == ["k"]


def test_the_word_of_another_primary_counts_for_nothing(three: MemorySet) -> None:
    client = arbiter(three, 3)
    conflicts(three, "k")
    asked(client)
    desk, member = three.nodes[3].node.desk, three.members[3]
    ((number, _),) = desk.trays.all()
    database = three.nodes[3].node.catalogue.by_name[b"d"].number
    conflict = three.nodes[3].node.catalogue.by_name[b"d"].conflicts[b"k"][0]
    word = Assigned(member.election.number, 1, database, number, conflict)
    take = member.handlers[Assigned]
    for sender, election in ((2, word.number), (1, word.number - 1)):
        take(sender, replace(word, number=election))
    take(1, replace(word, arbiter=number + 1))
    take(1, replace(word, database=10**9))
    three.run(0.1)
    assert asked(client) == []
    take(1, word)
    three.run(0.1)
    assert asked(client) == ["k"]


def test_a_copy_of_all_has_it_given_anew(three: MemorySet) -> None:
    client = arbiter(three, 3)
    conflicts(three, "k", "other")
    assert asked(client) == ["k", "other"]
    access.review(three.nodes[3].node)
    three.run(0.1)
    assert asked(client) == ["k", "other"]
    conflicts(three, "k")
    assert asked(client) == ["k"]


def test_one_at_a_node_that_waits_for_a_copy_counts_for_nothing(several: Several) -> None:
    nodes, clients = several
    conflicts(nodes, *KEYS)
    for client in clients:
        asked(client)
    nodes.members[3].fall_out()
    nodes.run(0.05)
    assert asked(clients[0]) + asked(clients[1]) == ["third"]
    # None of these is lost, whenever that one is counted in again.
    conflicts(nodes, "fifth", "sixth")
    assert sorted(key for client in clients for key in asked(client)) == ["fifth", "sixth"]


def token(nodes: MemorySet, permissions: str | None, seconds: float = 300.0) -> str:
    """How somebody selects the database by a signed token."""
    nobody_else = permissions if permissions is None else f"{permissions}|l -"
    end = EPOCH_2026 + nodes.clock.seconds() + seconds
    return f"use-db d jwt {signed(permissions=nobody_else, exp=end)}"


@pytest.mark.parametrize("where", [1, 3])
def test_the_rights_of_a_signed_token_are_its_own(several: Several, where: int) -> None:
    nodes, clients = several
    for client in clients:
        client.close()
    admin = nodes.nodes[1].admin("use-db d t")
    answers(nodes, admin, f"set-signing-keys keep {SECRET}")
    # The user has another list, which does not count.
    answers(nodes, admin, "set-permissions ana a third")
    visitor = arbiter(nodes, where, token(nodes, "a k"))
    assert conflict(nodes, 2, key="third") == NO_ARBITER
    conflicts(nodes, "k")
    assert asked(visitor) == ["k"]
    second = arbiter(nodes, 2, token(nodes, "a *"))
    # A new token on the same connection lets it do less.
    assert visitor.ask(token(nodes, "a other")) == ["ok \n"]
    nodes.run(0.1)
    assert asked(second) == ["k"]
    conflicts(nodes, "other")
    assert asked(visitor) == ["other"]
    # Without a list in the token that of the user counts.
    assert visitor.ask(token(nodes, None)) == ["ok \n"]
    nodes.run(0.1)
    assert asked(second) == ["other"]
    conflicts(nodes, "third", "fourth")
    assert (asked(visitor), asked(second)) == (["third"], ["fourth"])
    # When the token ends, so does its part.
    assert visitor.ask(token(nodes, "a *", seconds=20.0)) == ["ok \n"]
    nodes.run(21.0)
    assert asked(second) == ["third"]
    assert visitor.received()[-1] == "token-expired d\n"
