"""What was cut off is offered to the primary: the strategy of each database decides about it, once,
and whatever is not made again is in the file."""

from __future__ import annotations

import pytest

from nuntwist.cluster.bargains import Bargains
from nuntwist.cluster.offers import Offer, Offered, Offers, first_of
from nuntwist.core import divergent
from nuntwist.core.divergent import Decided, Deciding, marker_of
from nuntwist.core.following import Following
from nuntwist.errors import CommandError
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import Received
from nuntwist.oplog.record import encode, split
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.testing import MemoryNode
from nuntwist.values import BEGIN_EPOCH, INDEX, REMOVE, SET, STAMP, VALUE, Epoch, Op
from tests.unit.memory_set import MemorySet
from tests.unit.test_divergent import assert_all_alike
from tests.unit.test_divergent import divergent as divergent_files
from tests.unit.test_recovery import state

OLD = Epoch(3, 7)


class Primary:
    """A primary with the databases ``new``, ``arb`` and ``no``, after whose creation the logs part.

    :ivar first: the index of the first operation that only one of them has.
    """

    def __init__(self) -> None:
        self.node = MemoryNode()
        self.admin = self.node.admin(
            "create-db new t newer", "create-db arb t arbiter", "create-db no t none"
        )
        for name in ("new", "arb", "no"):
            for command in (f"use-db {name} t", "set a 1", "set gone 1"):
                self.admin.send(command)
        self.ids = {
            name: self.node.node.catalogue.by_name[name.encode()].number
            for name in ("new", "arb", "no", "$admin")
        }
        self.first = self.node.oplog.last.index + 1
        self.deciding = Deciding(self.node.node)
        self.index = self.first - 1

    def now(self) -> int:
        """A stamp of now."""
        self.node.clock.advance(0.01)
        return self.node.node.stamps.next()

    def op(
        self, name: str, key: str, value: str | None, stamp: int | None = None, version: int = 5
    ) -> Op:
        """An operation of the one that was cut off; the next of its log."""
        self.index += 1
        kind = REMOVE if value is None else SET
        data = None if value is None else value.encode()
        version = -1 if value is None else version
        stamp = self.now() if stamp is None else stamp
        return (data, version, self.index, stamp, kind, self.ids[name], key.encode())

    def offer(self, *ops: Op, epoch: Epoch = OLD, first: int | None = None) -> Decided:
        """Let it decide."""
        found: list[Decided] = []
        records = [Received(epoch, list(ops), b"")]
        self.deciding.decide(self.first if first is None else first, records).addCallback(
            found.append
        )
        self.node.settle()
        (decided,) = found
        return decided

    def get(self, name: str, key: str) -> str:
        client = self.node.tcp()
        client.send(f"use-db {name} t")
        answer = client.ask(f"get {key}").removeprefix("value ").partition("\n")[0]
        client.close()
        return answer


@pytest.fixture
def primary() -> Primary:
    return Primary()


# -- newer -----------------------------------------------------------------------------------------


def test_the_later_one_wins(primary: Primary) -> None:
    earlier = primary.now()
    primary.admin.send("use-db new t")
    primary.admin.send("set a here")
    watcher = primary.node.tcp()
    watcher.send("use-db new t")
    watcher.ask("watch a")
    assert primary.offer(primary.op("new", "a", "there", earlier)) == Decided(primary.index, 0, 1)
    assert primary.get("new", "a") == "here"
    assert primary.offer(primary.op("new", "a", "there")) == Decided(primary.index, 1)
    assert primary.get("new", "a") == "there"
    # An operation like any other: a version, an event.
    assert watcher.received() == "changed a there\nchanged-version a 2 there\n"


def test_those_of_one_node_stay_in_their_order(primary: Primary) -> None:
    first, second = primary.now(), primary.now()
    primary.admin.send("use-db new t")
    primary.admin.send("set other x")
    ops = [primary.op("new", "a", "1st", first), primary.op("new", "a", "2nd", second)]
    assert primary.offer(*ops).taken == 2
    assert primary.get("new", "a") == "2nd"
    # Another node's, made between the two.
    primary.index += 100
    assert primary.offer(primary.op("new", "a", "between", first + 1), epoch=Epoch(4, 2)).older == 1


def test_a_removal_is_an_operation_too(primary: Primary) -> None:
    assert primary.offer(primary.op("new", "gone", None)).taken == 1
    assert primary.get("new", "gone") == "<Empty>"
    # It is as it was to be.
    assert primary.offer(primary.op("new", "gone", None)).taken == 1
    early = primary.now()
    primary.admin.send("use-db new t")
    primary.admin.send("remove a")
    assert primary.offer(primary.op("new", "a", "x", early)).older == 1
    assert primary.get("new", "a") == "<Empty>"
    assert primary.offer(primary.op("new", "a", "y")).taken == 1
    assert primary.get("new", "a") == "y"


def test_a_key_that_was_never_there_is_made(primary: Primary) -> None:
    early = primary.now()
    primary.admin.send("use-db new t")
    primary.admin.send("set b 1")
    assert primary.offer(primary.op("new", "c", "x", early)).taken == 1
    assert primary.get("new", "c") == "x"


def test_where_the_log_does_not_tell_it_stays(primary: Primary) -> None:
    primary.admin.send("use-db new t")
    primary.admin.send("set b 1")
    primary.admin.send("set b 2")
    primary.node.oplog.forget(primary.node.oplog.last.index, 0)
    assert primary.node.oplog.first > primary.first
    assert primary.offer(primary.op("new", "c", "x")).stays == 1
    # Of what is there all is known.
    assert primary.offer(primary.op("new", "a", "x")).taken == 1


def test_where_too_much_was_removed_it_stays(
    primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergent, "REMOVALS", 1)
    monkeypatch.setattr(divergent, "SLICE", 1)
    primary.admin.send("use-db new t")
    for number in range(2):
        primary.admin.send(f"set k{number} 1")
        primary.admin.send(f"remove k{number}")
    assert primary.offer(primary.op("new", "c", "x")).stays == 1


def test_users_and_rights_of_a_database_are_offered(primary: Primary) -> None:
    op = primary.op("new", "$$permission_$ann", "r a*")
    assert primary.offer(op).taken == 1
    assert b"ann" in primary.node.node.catalogue.by_name[b"new"].permissions


# -- the others ------------------------------------------------------------------------------------


def test_with_none_it_stays(primary: Primary) -> None:
    assert primary.offer(primary.op("no", "a", "x"), primary.op("no", "b", None)).stays == 2
    assert primary.get("no", "a") == "1"


def test_with_arbiter_it_is_a_conflict(primary: Primary) -> None:
    assert primary.offer(primary.op("arb", "a", "x")).stays == 1
    arbiter = primary.node.admin("use-db arb t", "arbiter")
    decided = primary.offer(
        primary.op("arb", "a", "y", version=1),
        primary.op("arb", "a", "z", version=2),
        primary.op("arb", "gone", None),
        primary.op("arb", "$$user_ann", "scrypt"),
    )
    assert (decided.queued, decided.stays) == (2, 2)
    _, first, second = arbiter.received().split("resolve ")
    assert first.split(" ")[1:] == ["arb", "0", "a", "1", "y"]
    assert second.split(" ")[3::2] == ["a", "z"]
    assert primary.get("arb", "a") == "1"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("new", "$$token"),
        ("new", "$conflicts_a_1"),
        ("$admin", "$$user_ann"),
        ("$admin", "new"),
    ],
)
def test_what_is_of_the_server_stays(primary: Primary, name: str, key: str) -> None:
    before = state(primary.node)
    assert primary.offer(primary.op(name, key, "x")).stays == 1
    after = state(primary.node)
    after[b"$admin"].pop(marker_of(OLD))
    assert after == before


def test_plain_keys_of_the_catalogue_are_offered(primary: Primary) -> None:
    assert primary.offer(primary.op("$admin", "note", "x")).taken == 1


def test_another_database_of_the_same_number_is_another(primary: Primary) -> None:
    """Both sides have created one as their first operation after the logs part."""
    primary.admin.send("create-db e t newer")
    created = primary.node.node.catalogue.by_name[b"e"].number
    assert created == primary.first
    primary.ids["e"] = created
    assert primary.offer(primary.op("e", "k", "x")).stays == 1
    primary.ids["e"] = 999
    assert primary.offer(primary.op("e", "k", "x")).stays == 1
    assert primary.get("e", "k") == "<Empty>"


def test_a_stamp_of_the_future_wins_nothing(primary: Primary) -> None:
    ahead = primary.now() + (11_000 << 16)
    assert primary.offer(primary.op("new", "a", "x", ahead)).stays == 1


# -- once ------------------------------------------------------------------------------------------


def test_what_was_decided_is_not_decided_again(primary: Primary) -> None:
    ops = [primary.op("new", "a", "x"), primary.op("new", "b", "y")]
    assert primary.offer(*ops).taken == 2
    before = primary.node.oplog.last
    assert primary.offer(*ops) == Decided(primary.index)
    assert primary.node.oplog.last == before
    # Another node knows it, too, as it is in the log with what was made.
    (*_, last) = primary.node.oplog.read(0)
    assert [op[VALUE] for op in last][-1] == b"%d" % primary.index
    assert last[0][STAMP] == ops[0][STAMP]
    assert last[-1][STAMP] == primary.node.oplog.last_stamp
    # The same indexes of another epoch are other operations.
    primary.index -= 1
    assert primary.offer(primary.op("new", "b", "z"), epoch=Epoch(4, 1)).taken == 1


def test_what_is_of_the_set_is_nothing_to_decide(primary: Primary) -> None:
    primary.index += 1
    begin: Op = (b"", 0, primary.index, primary.now(), BEGIN_EPOCH, 0, b"")
    ops = [
        primary.op("$admin", key, "x")
        for key in ("$$members", "$$forwarded_1_0", "$$divergent_1_2")
    ]
    assert primary.offer(begin, *ops) == Decided(primary.index)
    assert primary.node.node.catalogue.admin.find(b"$$members") is None


def test_nobody_else_writes_how_far_it_is_decided(primary: Primary) -> None:
    primary.offer(primary.op("new", "a", "x"))
    admin = primary.node.admin("use-db $admin nun-pwd")
    key = marker_of(OLD).decode()
    assert admin.ask(f"set {key} 1").startswith("error the server alone writes")
    assert admin.ask(f"remove {key}").startswith("error the server alone writes")
    assert "divergent" not in admin.ask("keys")
    assert primary.deciding.decided_to(OLD) == primary.index


def test_who_is_no_primary_decides_nothing(primary: Primary) -> None:
    primary.node.node.pipeline.journal.refusal = b"not primary"
    failures: list[object] = []
    records = [Received(OLD, [primary.op("new", "a", "x")], b"")]
    primary.deciding.decide(primary.first, records).addErrback(
        lambda reason: failures.append(reason.check(CommandError))
    )
    primary.node.settle()
    assert failures == [CommandError]
    assert primary.get("new", "a") == "1"


def test_what_the_log_told_before_it_was_cut_does_not_count() -> None:
    primary = Primary()
    following = Following(primary.node.node)
    early, last = primary.now(), primary.node.oplog.last.index
    for command in ("use-db new t", "set z 1", "remove z"):
        primary.admin.send(command)
    assert primary.offer(primary.op("new", "z", "x", early)).older == 1
    following.cut(last)
    assert primary.offer(primary.op("new", "z", "x", early)).taken == 1


# -- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("divergent-3-41.op", 41),
        ("divergent-3-1.op", 1),
        ("divergent-3.op", None),
        ("divergent-3-x.op", None),
        ("divergent-3-\u0661.op", None),
        (f"divergent-3-{'9' * 20}.op", None),
        (f"divergent-3-{'9' * 5000}.op", None),
        ("divergent-3-41", None),
        ("Nun-00000000000000000001.op", None),
    ],
)
def test_a_file_is_known_by_its_name(name: str, first: int | None) -> None:
    assert first_of(name) == first


class Offering:
    """A node with files to offer.

    :ivar sent: what it has sent.
    :ivar known: how far the epochs are decided, as it knows.
    """

    def __init__(self, **tails: int) -> None:
        self.files = MemoryFiles()
        for name, count in tails.items():
            epoch, index = (int(word) for word in name[1:].split("_"))
            records = [
                encode(Epoch(epoch, 1), 1, [(b"v" * 1_000, 0, number, number, SET, 1, b"k")])
                for number in range(index, index + count)
            ]
            file = f"divergent-{epoch}-{index}.op"
            self.files.contents[file] = bytearray(SEGMENT_HEAD + b"".join(records))
        self.known: dict[Epoch, int] = {}
        self.sent: list[Offer] = []
        self.later: list[object] = []
        self.offers = Offers(
            self.files,
            9,
            lambda epoch: self.known.get(epoch, 0),
            self.sent.append,
            lambda _, call: self.later.append(call),
        )

    def indexes(self) -> list[list[int]]:
        return [
            [op[INDEX] for record in split(offer.data, "offer") for op in record.ops]
            for offer in self.sent
        ]


def test_one_piece_is_under_way_at_a_time() -> None:
    node = Offering(_3_11=40, _5_91=2)
    node.offers.begin()
    node.offers.begin()
    assert len(node.sent) == 1
    while len(node.sent[-1].data) and node.sent[-1].first == 11:
        node.offers.offered(Offered(9, node.indexes()[-1][-1], 1, 0))
    assert [i for piece in node.indexes() for i in piece] == [*range(11, 51), 91, 92]
    assert [offer.first for offer in node.sent] == [11, 11, 91]
    assert all(len(offer.data) <= 33 << 10 for offer in node.sent)
    node.offers.offered(Offered(9, 92, 1, 0))
    assert len(node.sent) == 3


def test_what_is_known_to_be_decided_is_passed_over() -> None:
    node = Offering(_3_11=40)
    node.known[Epoch(3, 1)] = 45
    node.offers.begin()
    assert node.indexes() == [[46, 47, 48, 49, 50]]
    node = Offering(_3_11=40)
    node.known[Epoch(3, 1)] = 50
    node.offers.begin()
    while node.later:
        node.later.pop()()  # type: ignore[operator]
    assert node.sent == []


def test_where_the_primary_cannot_decide_the_rest_waits() -> None:
    node = Offering(_3_11=40)
    node.offers.begin()
    node.offers.offered(Offered(8, 11, 1, 0))
    assert len(node.sent) == 1
    node.offers.offered(Offered(9, 0, 0, 0))
    assert len(node.sent) == 1


def test_a_damaged_file_is_left_and_the_next_one_offered() -> None:
    node = Offering(_3_11=1, _5_91=1)
    node.files.contents["divergent-3-11.op"][100] ^= 1
    node.offers.begin()
    assert node.indexes() == [[91]]


# -- in a set --------------------------------------------------------------------------------------


def part(nodes: MemorySet, *commands: str) -> None:
    """The primary, node 1, is cut off and does this; the others elect."""
    client = nodes.nodes[1].admin()
    nodes.isolate(1)
    for command in commands:
        client.send(command)
    nodes.run(3.0)
    assert nodes.primary() in (2, 3)


@pytest.mark.parametrize("restart", [False, True])
def test_what_an_old_primary_took_is_made_again(restart: bool) -> None:
    nodes = MemorySet()
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db new t newer", "create-db no t", "use-db new t", "set a 1")
    nodes.run(0.2)
    part(
        nodes,
        *("use-db new t", "set a 2", "set b 2", *(f"set k{n} {'v' * 90}" for n in range(900))),
        *("use-db no t", "set x 1"),
    )
    nodes.nodes[nodes.primary()].admin("use-db new t", "set b 3")
    if restart:
        nodes.kill(1)
        nodes.cut.clear()
        nodes.restart(1)
    nodes.heal()
    nodes.run(5.0)
    assert_all_alike(nodes)
    found = state(nodes.nodes[1])
    assert (found[b"new"][b"a"], found[b"new"][b"b"]) == ((b"2", 1), (b"3", 0))
    assert sum(key.startswith(b"k") for key in found[b"new"]) == 900
    assert b"x" not in found[b"no"]
    counters = nodes.nodes[nodes.primary()].node.counters
    assert (counters.offered_made, counters.offered_left) == (901, 2)
    assert len(divergent_files(nodes, 1)) == 1
    # Whoever leads later has nothing to decide again.
    last = nodes.nodes[1].oplog.last.index
    nodes.kill(nodes.primary())
    nodes.run(5.0)
    assert nodes.nodes[nodes.primary()].node.counters.offered_made == 0
    assert nodes.nodes[nodes.primary()].oplog.last.index <= last + 2


def test_a_failover_on_the_way_decides_nothing_twice() -> None:
    nodes = MemorySet(5)
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db new t newer", "use-db new t")
    nodes.run(0.2)
    part(nodes, "use-db new t", *(f"increment k{n % 9}" for n in range(2_000)))
    second = nodes.primary()
    nodes.heal()
    for _ in range(200):
        nodes.run(0.002)
        if nodes.nodes[second].node.counters.offered_made > 700:
            break
    nodes.kill(second)
    nodes.run(8.0)
    third = nodes.primary()
    made = nodes.nodes[third].node.counters.offered_made
    assert 0 < made < 2_000
    found = state(nodes.nodes[third])[b"new"]
    assert sum(int(value) for key, (value, _) in found.items() if key.startswith(b"k")) == 2_000
    # A version for each of them: none was made twice.
    assert sum(version + 1 for key, (_, version) in found.items() if key.startswith(b"k")) == 2_000


def test_an_offer_that_is_no_records_is_the_fault_of_the_link(primary: Primary) -> None:
    from nuntwist.errors import CorruptData

    sent: list[object] = []
    bargains = Bargains(
        1,
        MemoryFiles(),
        primary.deciding,
        lambda node, message: sent.append(message),
        lambda: 4,
        primary.node.clock.callLater,
    )
    data = encode(OLD, 1, [primary.op("new", "a", "x")])
    bargains.received(2, Offer(4, primary.first, data))
    assert sent == []
    bargains.primary(1)
    bargains.received(2, Offer(3, primary.first, data))
    primary.node.settle()
    assert sent == []
    bargains.received(2, Offer(4, primary.first, data))
    primary.node.settle()
    assert sent == [Offered(4, primary.index, 1, 0)]
    with pytest.raises(CorruptData):
        bargains.received(2, Offer(4, primary.first, data[:-1]))
    primary.node.node.pipeline.journal.refusal = b"no primary"
    bargains.received(2, Offer(4, primary.first, data))
    primary.node.settle()
    assert sent[1:] == [Offered(4, 0, 0, 0)]
