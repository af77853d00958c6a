"""How many nodes must have a write before it is answered, and how new reads are."""

from __future__ import annotations

import pytest

from nuntwist.cluster.confirming import Confirm, Confirmed
from nuntwist.core.concern import MAJORITY, PRIMARY, Concern, parse_concern
from nuntwist.errors import CommandError
from nuntwist.testing import LineConnection, MemoryNode
from tests.unit.memory_set import MemorySet


@pytest.fixture
def three() -> MemorySet:
    nodes = MemorySet()
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.1)
    return nodes


def client(nodes: MemorySet, me: int, *commands: str) -> LineConnection:
    """A client of a node, that has selected the database."""
    found = nodes.nodes[me].tcp()
    for command in ("use-db d t", *commands):
        assert found.ask(command) == "ok \n"
    return found


@pytest.mark.parametrize(
    ("text", "concern"),
    [
        (b"primary", Concern(PRIMARY)),
        (b"majority", Concern(MAJORITY)),
        (b"majority 500", Concern(MAJORITY, 500)),
        (b"2 1", Concern(2, 1)),
    ],
)
def test_a_concern_is_read_and_written(text: bytes, concern: Concern) -> None:
    assert parse_concern(text) == concern
    assert concern.encode() == text


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"all", b"0", b"-1", b"32", b"majority 0", b"majority x", b"1 2 3", b"9" * 40),
        # Their first digits alone would do.
        *(b"000000000001999", b"majority 0000000000019999999999", b"1 000000000001" + b"0" * 5000),
        *(b"+1", b"1_0", b"majority +5", b"majority 1_0"),
    ],
)
def test_what_is_no_concern_is_refused(text: bytes) -> None:
    with pytest.raises(CommandError):
        parse_concern(text)


def test_a_write_waits_for_the_majority_where_its_connection_asks_for_it(
    three: MemorySet,
) -> None:
    three.delay = 0.05
    plain, careful = client(three, 1), client(three, 1, "write-concern majority")
    assert plain.ask("set a 1") == "ok \n"
    assert careful.ask("set b 2") == ""
    assert careful.ask("get b") == ""
    three.run(0.09)
    assert careful.received() == ""
    three.run(0.02)
    assert careful.received() == "ok \nvalue 2\nok \n"
    assert careful.ask("write-concern") == "write-concern majority 1000\nok \n"
    careful.ask("write-concern default")
    assert careful.ask("set b 3") == "ok \n"


def test_all_of_a_pipeline_is_answered_in_order(three: MemorySet) -> None:
    careful = client(three, 1, "write-concern majority")
    careful.send("set a 1\nget a\nincrement a 2\nget a\nset-safe a 0 x\nremove a\nget a")
    three.run(0.1)
    assert careful.received() == (
        "ok \nvalue 1\nok \nok \nvalue 3\nok \nerror Invalid version! \nok \nvalue <Empty>\nok \n"
    )


def test_a_number_of_replicas_is_counted(three: MemorySet) -> None:
    two, three_of = client(three, 1, "write-concern 2 300"), client(three, 1, "write-concern 3 300")
    assert two.ask("set a 1") == ""
    assert three_of.ask("set b 1") == ""
    three.run(0.1)
    assert two.received() == "ok \n"
    assert three_of.received() == ""
    three.run(0.3)
    unmet = "error outcome unknown: write concern not met in 300 ms \n"
    assert three_of.received() == unmet
    assert two.ask("get b") == "value 1\nok \n"
    three.isolate(3)
    assert two.ask("set a 2") == ""
    three.run(0.31)
    assert two.received() == unmet


def test_without_a_majority_the_outcome_is_unknown(three: MemorySet) -> None:
    careful = client(three, 1, "write-concern majority 200")
    three.isolate(1)
    assert careful.ask("set a 1") == ""
    three.run(0.21)
    assert careful.received() == "error outcome unknown: write concern not met in 200 ms \n"
    careful.send("set a 2")
    three.run(1.0)
    # It is no primary any more.
    assert careful.received().startswith("error outcome unknown: ")


def test_who_waits_is_told_at_once_that_the_primary_is_another(three: MemorySet) -> None:
    careful = client(three, 1, "write-concern majority 60000")
    three.isolate(1)
    careful.send("set a 1")
    three.run(2.0)
    assert careful.received() == "error outcome unknown: this node is no longer primary \n"


def test_the_concern_of_a_database_is_kept_with_it(three: MemorySet) -> None:
    admin = three.nodes[1].admin("use-db d t")
    writer = client(three, 1)
    admin.send("set-write-concern majority 400")
    three.run(0.1)
    assert admin.received() == "ok \n"
    for me in three.ids:
        assert three.nodes[me].node.catalogue.by_name[b"d"].concern == Concern(MAJORITY, 400)
        assert client(three, me).ask("write-concern") == "write-concern majority 400\nok \n"
    assert writer.ask("set a 1") == ""
    three.run(0.1)
    assert writer.received() == "ok \n"
    assert writer.ask("write-concern primary") == "ok \n"
    assert writer.ask("set a 2") == "ok \n"
    admin.send("set-write-concern default")
    three.run(0.1)
    assert three.nodes[2].node.catalogue.by_name[b"d"].concern is None
    assert client(three, 1).ask("set a 3") == "ok \n"
    assert client(three, 1).ask("set-write-concern majority") == "error Not auth \n"


def test_a_forwarded_write_waits_for_the_majority(three: MemorySet) -> None:
    careful = client(three, 2, "write-concern majority")
    careful.send("set a 1\nget a")
    three.run(0.1)
    assert careful.received() == "ok \nvalue 1\nok \n"


def test_a_forwarded_write_waits_for_a_number_of_replicas(three: MemorySet) -> None:
    two = client(three, 2, "write-concern 2 400")
    more = client(three, 3, "write-concern 3 300")
    three.delay = 0.05
    two.send("set a 1\nget a\nset-safe a -2 x")
    more.send("set b 1")
    three.run(0.18)
    # It is here, and on the other secondary, but the primary has not said so.
    assert two.received() == ""
    three.run(0.1)
    assert two.received() == "ok \nvalue 1\nok \n"
    three.run(0.3)
    assert more.received() == "error outcome unknown: write concern not met in 300 ms \n"
    assert more.ask("get b") == "value 1\nok \n"
    assert two.received() == "error Invalid version! \n"


def test_who_asks_for_less_is_not_told_that_more_was_not_met(three: MemorySet) -> None:
    plain, two = client(three, 2), client(three, 2, "write-concern 2 400")
    three.isolate(3)
    # Both go in one request.
    two.protocol.dataReceived(b"set a 2\n")
    plain.protocol.dataReceived(b"set a 3\n")
    three.run(0.5)
    assert two.received() == "error outcome unknown: write concern not met in 400 ms \n"
    assert plain.received() == "ok \n"
    assert plain.ask("get a") == "value 3\nok \n"


def test_a_number_that_is_asked_for_goes_on_with_the_next_primary(three: MemorySet) -> None:
    two = client(three, 2, "write-concern 2 60000")
    three.isolate(3)
    two.send("set a 1")
    three.run(0.1)
    three.members[1].release(2)
    three.run(2.0)
    assert three.primary() == 2
    assert two.received() == ""
    three.heal()
    three.run(3.0)
    assert two.received() == "ok \n"
    for me in three.ids:
        assert client(three, me).ask("get a") == "value 1\nok \n"


@pytest.mark.parametrize("me", [1, 2])
def test_the_nodes_own_concern_may_be_a_number(me: int) -> None:
    nodes = MemorySet(concern=Concern(2, 300))
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.5)
    writer, less = client(nodes, me), client(nodes, me, "write-concern primary")
    nodes.delay = 0.02
    writer.send("set a 1")
    nodes.run(0.03)
    assert writer.received() == ""
    nodes.run(0.2)
    assert writer.received() == "ok \n"
    nodes.isolate(3)
    writer.send("set a 2")
    less.send("set b 2")
    nodes.run(0.4)
    assert writer.received() == "error outcome unknown: write concern not met in 300 ms \n"
    nodes.run(0.4)
    assert less.received() == "ok \n"


def test_a_narrower_concern_than_that_of_the_node() -> None:
    nodes = MemorySet(concern=Concern(MAJORITY, 1000))
    nodes.run(2.0)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.1)
    plain, quick = client(nodes, 1), client(nodes, 1, "write-concern primary")
    nodes.delay = 0.05
    assert plain.ask("set a 1") == ""
    assert quick.ask("set b 1") == "ok \n"
    nodes.run(0.11)
    assert plain.received() == "ok \n"


def test_a_node_alone_is_a_majority_and_has_no_replicas() -> None:
    node = MemoryNode()
    node.admin("create-db d t")
    alone = node.tcp()
    alone.ask("use-db d t")
    alone.ask("write-concern majority")
    assert alone.ask("set a 1") == "ok \n"
    alone.ask("write-concern 1 50")
    assert alone.ask("set a 2") == ""
    node.clock.advance(0.06)
    assert alone.received() == "error outcome unknown: write concern not met in 50 ms \n"
    alone.ask("read-concern linearizable")
    assert alone.ask("get a") == "value 2\nok \n"


def test_too_few_replicas_refuse_writes() -> None:
    from nuntwist.core.limits import Limits

    nodes = MemorySet(limits=Limits(min_replicas=2))
    nodes.run(2.5)
    nodes.nodes[1].admin("create-db d t")
    nodes.run(0.1)
    writer = client(nodes, 1)
    assert writer.ask("set a 1") == "ok \n"
    nodes.isolate(3)
    nodes.run(1.5)
    assert writer.ask("set a 2") == "error too few replicas: 1 of 2 follow the primary \n"
    assert writer.ask("get a") == "value 1\nok \n"
    nodes.cut.clear()
    nodes.connect(1, 3)
    nodes.run(2.0)
    assert writer.ask("set a 3") == "ok \n"


# -- reads ---------------------------------------------------------------------------------------


def test_a_linearizable_read_asks_a_majority(three: MemorySet) -> None:
    three.delay = 0.05
    reader = client(three, 1, "read-concern linearizable")
    assert reader.ask("get a") == ""
    three.run(0.09)
    assert reader.received() == ""
    three.run(0.02)
    assert reader.received() == "value <Empty>\nok \n"


def test_a_secondary_reads_what_was_written_before_anywhere(three: MemorySet) -> None:
    three.delay = 0.05
    reader, writer = client(three, 2, "read-concern linearizable"), client(three, 1)
    assert writer.ask("set a 1") == "ok \n"
    stale = client(three, 2)
    assert stale.ask("get a") == "value <Empty>\nok \n"
    assert reader.ask("get a") == ""
    three.run(0.3)
    assert reader.received() == "value 1\nok \n"
    reader.send("keys")
    three.run(0.3)
    assert reader.received() == "keys ,$connections,a\nok \n"


def test_a_primary_that_is_cut_off_answers_no_linearizable_read(three: MemorySet) -> None:
    reader = client(three, 1, "read-concern linearizable")
    three.isolate(1)
    reader.send("get a")
    three.run(0.4)
    assert reader.received() == ""
    three.run(1.0)
    assert reader.received() == "error no primary \n"
    assert client(three, 1).ask("get a") == "value <Empty>\nok \n"


def test_a_read_whose_question_is_lost_with_the_connection_is_answered(three: MemorySet) -> None:
    """The primary stays who it is, so no election tells that no answer will come."""
    three.delay = 0.05
    reader = client(three, 2, "read-concern linearizable")
    assert reader.ask("get a") == ""
    three.run(0.01)
    for ends in ((1, 2), (2, 1)):
        three.pipes[ends].end()
    three.connect(1, 2)
    three.run(0.2)
    assert reader.received() == "error no primary \n"
    assert three.members[2].election.primary == 1
    three.run(0.5)
    reader.send("get a")
    three.run(0.3)
    assert reader.received() == "value <Empty>\nok \n"


def test_a_read_that_nobody_answers_ends_in_time(three: MemorySet) -> None:
    reader = client(three, 2, "read-concern linearizable")
    three.members[1].handlers[Confirm] = lambda sender, message: None
    reader.send("get a")
    three.run(0.9)
    assert reader.received() == ""
    three.run(0.2)
    assert reader.received() == "error no primary has confirmed the read in 1000 ms \n"
    three.run(1.0)
    # And the answer that comes too late is passed over.
    three.members[2].handlers[Confirmed](1, Confirmed(1, 1, 1))
    assert reader.received() == ""


def test_many_reads_share_heartbeats(three: MemorySet) -> None:
    three.delay = 0.02
    readers = [client(three, 1, "read-concern linearizable") for _ in range(50)]
    counts = 0

    def arrived(sender: int, receiver: int) -> None:
        nonlocal counts
        counts += sender == 1

    three.arrived = arrived
    for reader in readers:
        reader.send("get a")
    three.run(0.1)
    assert [reader.received() for reader in readers] == ["value <Empty>\nok \n"] * 50
    assert counts < 20
