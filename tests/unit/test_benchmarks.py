"""The pure parts of the benchmark suite: bytes on the wire, figures, the report."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from benchmarks import __main__ as command_line
from benchmarks import failover, lag, sets
from benchmarks.bench import QUICK, Sample, Settings, side
from benchmarks.figures import TARGETS, Reach, Row, Side, Target, percentile
from benchmarks.load import Channel, LoadError, Outcome, check
from benchmarks.replication import with_wait
from benchmarks.report import goal, number, row_as_data, shares, table
from benchmarks.servers import Node, ServerError
from benchmarks.sync import Probe
from benchmarks.wire import (
    NunTcp,
    NunWebSocket,
    Redis,
    Request,
    Ring,
    frame,
    key_of,
    random_gets,
    random_sets,
    resp,
    ring,
    sets_in_order,
    value_of,
)

KEY, VALUE = key_of(12345), value_of(7)


def unmask(data: bytes) -> tuple[int, bytes, bytes]:
    """Read a frame as a server does: first byte, payload, what follows."""
    size, place = data[1] & 0x7F, 2
    if size == 126:
        size, place = int.from_bytes(data[2:4], "big"), 4
    mask, place = data[place : place + 4], place + 4
    payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data[place : place + size]))
    return data[0], payload, data[place + size :]


class TestCommands:
    def test_keys_and_values_have_the_lengths_that_the_answers_are_counted_with(self) -> None:
        assert key_of(0) == b"key:000000000000"
        assert {len(key_of(at)) for at in (0, 99_999, 999_999)} == {16}
        assert {len(value_of(at)) for at in (0, 2**32)} == {20}

    def test_the_node_over_tcp(self) -> None:
        tcp = NunTcp()
        assert tcp.set(KEY, VALUE) == Request(b"set %b %b\n" % (KEY, VALUE), 1, len(b"ok \n"))
        answer = b"value %b\nok \n" % VALUE
        assert tcp.get(KEY) == Request(b"get %b\n" % KEY, answer.count(b"\n"), len(answer))
        assert tcp.ping() == Request(b"ping\n", 2, len(b"pong\nok \n"))

    def test_the_lists_of_the_node(self) -> None:
        answer = b"keys ,%b,%b\nok \n" % (KEY, KEY)
        everything = answer.replace(b"\nok", b",$connections\nok")
        assert NunTcp().keys(b"", 2) == Request(b"keys\n", 2, len(everything))
        assert NunTcp().keys(b"key:", 2) == Request(b"keys key:*\n", 2, len(answer))

    def test_redis(self) -> None:
        redis = Redis()
        wanted = b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$20\r\n%b\r\n" % (KEY, VALUE)
        assert redis.set(KEY, VALUE) == Request(wanted, 1, len(b"+OK\r\n"))
        answer = b"$20\r\n%b\r\n" % VALUE
        assert redis.get(KEY) == Request(resp(b"GET", KEY), 2, len(answer))
        listed = b"*2\r\n" + 2 * (b"$16\r\n%b\r\n" % KEY)
        assert redis.keys(b"key:", 2) == Request(
            b"*2\r\n$4\r\nKEYS\r\n$5\r\nkey:*\r\n", listed.count(b"\n"), len(listed)
        )

    def test_the_node_over_websocket(self) -> None:
        request = NunWebSocket(random.Random(1)).set(KEY, VALUE)
        assert unmask(request.data) == (0x81, b"set %b %b" % (KEY, VALUE), b"")
        assert (request.newlines, request.size) == (1, len(b"\x81\x04ok \n"))
        read = NunWebSocket(random.Random(1)).get(KEY)
        answer = b"\x81\x1bvalue %b\n\x81\x04ok \n" % VALUE
        assert (read.newlines, read.size) == (answer.count(b"\n"), len(answer))


class TestFrames:
    @pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 1000, 65535])
    def test_a_frame_comes_out_as_it_went_in(self, size: int) -> None:
        text = bytes(at % 251 for at in range(size))
        assert unmask(frame(text, b"\x01\x80\xff\x42")) == (0x81, text, b"")

    def test_every_frame_says_that_it_is_masked(self) -> None:
        assert frame(b"a" * 10, b"mask")[1] == 0x80 | 10
        assert frame(b"a" * 200, b"mask")[1:4] == b"\xfe\x00\xc8"

    def test_the_example_of_the_rfc(self) -> None:
        wanted = bytes.fromhex("818537fa213d7f9f4d5158")
        assert frame(b"Hello", bytes.fromhex("37fa213d")) == wanted


class TestRings:
    def test_batches_hold_whole_commands_of_the_depth(self) -> None:
        made = sets_in_order(NunTcp(), 3, 10, 6)
        assert len(made.batches) == 2
        assert made.batches[1].splitlines() == [
            b"set %b %b" % (key_of(at), value_of(at)) for at in (13, 14, 15)
        ]
        assert (made.depth, made.newlines, made.size) == (3, 3, 12)

    def test_a_rest_that_fills_no_batch_is_left_out(self) -> None:
        assert len(sets_in_order(NunTcp(), 4, 0, 11).batches) == 2

    def test_random_commands_stay_in_the_key_space_and_come_again_from_the_seed(self) -> None:
        allowed = {key_of(at) for at in range(5)}
        made = random_gets(NunTcp(), 2, 5, 100, random.Random(3))
        named = {line[4:] for batch in made.batches for line in batch.splitlines()}
        assert named == allowed
        assert made == random_gets(NunTcp(), 2, 5, 100, random.Random(3))
        one, two = (random_sets(Redis(), 2, 5, 100, random.Random(seed)) for seed in (1, 2))
        assert one.batches != two.batches

    @pytest.mark.parametrize(
        ("requests", "depth"),
        [([], 1), ([Request(b"a", 1, 1)], 2), ([Request(b"a", 1, 1), Request(b"b", 2, 1)], 1)],
    )
    def test_what_is_no_ring_is_refused(self, requests: list[Request], depth: int) -> None:
        with pytest.raises(ValueError, match="whole batch"):
            ring(requests, depth)


class TestFigures:
    @pytest.mark.parametrize(
        ("share", "wanted"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
    )
    def test_percentiles_by_nearest_rank(self, share: float, wanted: int) -> None:
        values = [float(at) for at in range(100, 0, -1)]
        assert percentile(values, share) == wanted

    def test_a_percentile_of_one_and_of_none(self) -> None:
        assert percentile([4.0], 0.5) == 4.0
        with pytest.raises(ValueError, match="no values"):
            percentile([], 0.5)

    def test_a_row_compares_the_medians(self) -> None:
        row = Row("set-1", "TCP set", "/s", Side([1.0, 50.0, 40.0]), Side([80.0, 100.0, 9000.0]))
        assert row.ratio == 0.4
        assert row.reached is False

    @pytest.mark.parametrize(("ours", "reached"), [(45.0, True), (44.9, False)])
    def test_a_ratio_is_reached_at_its_figure(self, ours: float, reached: bool) -> None:
        assert TARGETS["set-1"].value == 0.45
        assert Row("set-1", "", "/s", Side([ours]), Side([100.0])).reached is reached

    @pytest.mark.parametrize(("ours", "reached"), [(10.0, True), (10.1, False)])
    def test_a_limit_needs_no_redis(self, ours: float, reached: bool) -> None:
        assert Row("pause-load", "", "ms", Side([ours])).reached is reached

    def test_nothing_is_said_where_nothing_can_be_compared(self) -> None:
        assert Row("set-1", "", "/s", Side([1.0])).reached is None
        assert Row("set-1", "", "/s", Side([1.0]), Side([0.0])).ratio is None
        assert Row("restart-killed", "", "s", Side([1.0]), Side([2.0])).reached is None

    def test_turns_are_summed_up_by_their_medians(self) -> None:
        made = side([Sample(10.0, 0.9, 0.5), Sample(30.0, 1.0, 0.1), Sample(20.0, 0.95, 0.2)])
        assert (made.figure, made.cpu, made.generator) == (20.0, 0.95, 0.2)


class TestCheck:
    channel = Channel(None, Ring([b"x"], 1, 1, 4))  # type: ignore[arg-type]  # never used

    def test_the_right_number_of_bytes_is_accepted(self) -> None:
        check([self.channel], Outcome(1.0, [3], [12], []))

    def test_an_error_among_the_answers_is_noticed(self) -> None:
        received = len(b"ok \nok \nerror no \n")
        with pytest.raises(LoadError, match="instead of 12"):
            check([self.channel], Outcome(1.0, [3], [received], []))


class TestReport:
    rows = (
        Row("set-1", "TCP set", "/s", Side([90_000.0], 1.0, 0.4), Side([180_000.0], 0.99, 0.7)),
        Row("pause-load", "Longest wait", "ms", Side([12.34])),
    )

    def test_the_table(self) -> None:
        assert table(self.rows).splitlines() == [
            "| measure      | nuntwist |     Redis | ratio | to reach | reached "
            "| cpu % nuntwist/load | cpu % Redis/load |",
            "| ------------ | -------: | --------: | ----: | -------: | ------: "
            "| ------------------: | ---------------: |",
            "| TCP set      | 90,000/s | 180,000/s |  0.50 |  >= 0.45 |     yes "
            "|              100/40 |            99/70 |",
            "| Longest wait |  12.3 ms |         - |       | <= 10 ms |      NO "
            "|                     |                  |",
        ]

    def test_a_comparison_has_names_of_its_own_and_no_figures_to_reach(self) -> None:
        head = table(self.rows, ("this tree", "v0.1.0"), targets=False).splitlines()[0]
        assert "| this tree |" in head
        assert "v0.1.0" in head
        assert "reach" not in head

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.0123, "0.0123"), (12.34, "12.3"), (99.96, "100"), (345.6, "346"), (1234.5, "1,234")],
    )
    def test_numbers(self, value: float, text: str) -> None:
        assert number(value) == text

    def test_texts_for_what_is_not_there(self) -> None:
        assert goal(None, "ms") == ""
        # A ratio has no unit.
        assert goal(Target(Reach.TIMES, 5.0), "s") == "<= 5.00"
        assert goal(Target(Reach.AT_MOST, 5.0), "s") == "<= 5 s"
        assert shares(None) == ""
        assert shares(Side([1.0])) == ""

    def test_the_data_of_a_row_can_be_written_as_json(self) -> None:
        data = json.loads(json.dumps([row_as_data(row) for row in self.rows]))
        assert data[0]["ratio"] == 0.5
        assert data[0]["target"] == {"reach": "ratio", "value": 0.45}
        assert data[0]["reached"] is True
        assert data[0]["ours"]["rounds"] == [90_000.0]
        assert data[1]["redis"] is None


class TestCommandLine:
    def test_the_groups_that_are_run(self) -> None:
        assert command_line.parse(["--only", "set,get"]).only == {"set", "get"}
        assert command_line.parse([]).only == set(command_line.GROUPS)

    def test_every_figure_to_reach_belongs_to_a_group(self) -> None:
        assert {name.split("-")[0] for name in TARGETS} <= set(command_line.GROUPS)
        assert {target.reach for target in TARGETS.values()} == set(Reach)

    @pytest.mark.parametrize("arguments", [["--only", "sets"], ["compare"], ["--engine", "go"]])
    def test_what_it_does_not_know_it_refuses(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            command_line.parse(arguments)
        assert exit_.value.code == 2
        assert "error:" in capsys.readouterr().err

    def test_settings_can_be_changed_one_by_one(self) -> None:
        made = command_line.settings_of(command_line.parse(["--quick", "--rounds", "7"]))
        assert made.rounds == 7
        assert made.keys == QUICK.keys
        assert command_line.settings_of(command_line.parse([])) == Settings()

    def test_a_part_that_fails_keeps_its_rows_and_does_not_stop_the_next(self) -> None:
        row = Row("set-1", "", "/s", Side([1.0]))

        def failing() -> Iterator[Row]:
            yield row
            raise LoadError("closed")

        assert command_line.collect([failing(), iter([row])]) == ([row, row], ["closed"])


class TestReplicaSets:
    def test_a_wait_follows_every_batch_of_redis(self) -> None:
        plain = random_sets(Redis(), 2, 10, 8, random.Random(1))
        waiting = with_wait(plain)
        answer = b"+OK\r\n+OK\r\n:1\r\n"
        assert waiting.newlines == answer.count(b"\n")
        assert waiting.size == len(answer)
        wait = b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$4\r\n5000\r\n"
        assert waiting.batches == [batch + wait for batch in plain.batches]

    def test_failovers_are_told_by_least_median_p90_and_worst(self) -> None:
        told = {row.name: row.ours.figure for row in failover.rows([0.1 * n for n in range(1, 21)])}
        assert told == {
            "failover-median": pytest.approx(1.05),
            "failover-least": pytest.approx(0.1),
            "failover-p90": pytest.approx(1.8),
            "failover-worst": pytest.approx(2.0),
        }

    def test_a_node_follows_as_a_member_that_has_all(self) -> None:
        ahead = {"set_id": "s", "epoch": 2, "last": 9, "primary": "a:1"}
        member = {"address": "b:1", "member": True, "connected": True}
        leads = _Told("a:1", {**ahead, "replicas": [member]})
        assert sets.follows(leads.node, _Told("b:1", ahead).node)
        # Others write meanwhile: it was asked later.
        assert sets.follows(leads.node, _Told("b:1", {**ahead, "last": 10}).node)
        assert not sets.follows(leads.node, _Told("b:1", {**ahead, "last": 8}).node)
        assert not sets.follows(leads.node, _Told("b:1", {**ahead, "epoch": 1}).node)
        assert not sets.follows(leads.node, _Told("c:1", ahead).node)
        apart = _Told("a:1", {**ahead, "replicas": [{**member, "connected": False}]})
        assert not sets.follows(apart.node, _Told("b:1", ahead).node)

    def test_the_primary_is_the_one_that_all_see(self) -> None:
        nodes = [_Told(name, {"primary": "b:1"}).node for name in ("a:1", "b:1")]
        assert sets.primary_of(nodes) is nodes[1]


class _Told:
    """A node that says what it is told to say."""

    def __init__(self, address: str, state: dict[str, Any]) -> None:
        self.address = address
        self._state = state

    def state(self) -> dict[str, Any]:
        return self._state

    @property
    def node(self) -> Node:
        return cast(Node, self)


class TestCounted:
    def test_answers_are_counted_across_the_pieces_they_come_in(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            counted = lag.Counted(ours, lag.EVENT)
            pieces = [b"changed k 1\nchanged-ver", b"sion k 1 1\nchanged-version k 2 2", b"\n"]
            counts = []
            for piece in pieces:
                theirs.sendall(piece)
                counted.read()
                counts.append(len(counted.times))
        assert counts == [0, 1, 2]

    def test_a_closed_connection_is_an_error(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        with ours, pytest.raises(LoadError):
            lag.Counted(ours, lag.REPLY).read()

    def test_the_lag_of_each_write_is_from_reply_to_event(self) -> None:
        writer, primary = socket.socketpair()
        watcher, secondary = socket.socketpair()

        def serve() -> None:
            while data := primary.recv(65536):
                count = data.count(b"\n")
                primary.sendall(b"ok \n" * count)
                secondary.sendall(b"changed k 1\nchanged-version k 1 1\n" * count)

        server = threading.Thread(target=serve)
        server.start()
        with primary, watcher, secondary:
            with writer:
                lags = lag.measure(writer, watcher, 1_000, 0.02)
            server.join()
        assert lags
        assert min(lags) >= 0.0


class TestProbe:
    @pytest.mark.parametrize("answer", [b"error refused\n", b""])
    def test_one_that_is_refused_or_cut_off_fails_the_measure(self, answer: bytes) -> None:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs:
                theirs.recv(65536)
                theirs.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        probe = Probe(ours, b"ping\n", 2)
        server.join()
        with pytest.raises(ServerError, match="a probe failed"):
            probe.stop()
