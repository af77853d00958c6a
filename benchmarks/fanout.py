"""One key, many watchers: from the write to the last delivery.

Our watchers are WebSocket connections and get two text frames for a change, ``changed`` and
``changed-version``; Redis' are subscribers over TCP and get one message.  Either counts as one
delivery.  A round begins with the write and ends when the last watcher has its event; then the
next begins.
"""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator
from functools import partial

from benchmarks.bench import Bench, Player
from benchmarks.figures import Row, Side
from benchmarks.load import Channel
from benchmarks.servers import Node, RedisServer, closing_all
from benchmarks.wire import Request, Ring, once, resp, value_of

TOPIC = b"fan"
EVENT_LINES = 2
MESSAGE_LINES = 7


def run(bench: Bench, node: Node, redis: RedisServer | None) -> Iterator[Row]:
    """Give two rows for each number of watchers: deliveries a second, and the time."""
    for watchers in bench.settings.watchers:
        bench.say(f"fan-out to {watchers:,} watchers")
        with (
            closing_all(node.connect_web(watchers, b"watch " + TOPIC)) as listening,
            closing_all(node.connect(1)) as (writer,),
            closing_all(redis.subscribe(watchers, TOPIC) if redis else []) as subscribed,
            closing_all(redis.connect(1) if redis else []) as publishers,
        ):
            set_it = once(node.dialect.set(TOPIC, value_of(1)))
            ours = _channels(Channel(writer, set_it), listening, EVENT_LINES)
            rounds = max(10, bench.settings.deliveries // watchers)
            times: list[list[float]] = [[], []]
            players: list[Player] = [(node, partial(_turn, bench, ours, rounds, times[0]))]
            if redis is not None:
                publish = once(Request(resp(b"PUBLISH", TOPIC, value_of(1)), 1, 0))
                theirs = _channels(Channel(publishers[0], publish), subscribed, MESSAGE_LINES)
                players.append((redis, partial(_turn, bench, theirs, rounds, times[1])))
            sides = bench.turns(players)
        title = f"Fan-out, {watchers:,} watchers"
        yield Row(f"fanout-{watchers}", title, "/s", sides[0], *sides[1:])
        spans = [Side([statistics.median(kept) * 1000]) for kept in times if kept]
        yield Row(f"fanout-{watchers}-time", "  write to last delivery", "ms", *spans)


def _channels(writer: Channel, listening: list[socket.socket], lines: int) -> list[Channel]:
    listen = Ring([], 0, lines, 0)
    return [writer, *(Channel(connection, listen) for connection in listening)]


def _turn(bench: Bench, channels: list[Channel], rounds: int, times: list[float]) -> float:
    """Run some rounds, add their times, give the deliveries a second."""
    taken = bench.engine.deliver(channels, rounds)
    times.extend(taken)
    return (len(channels) - 1) * rounds / sum(taken)
