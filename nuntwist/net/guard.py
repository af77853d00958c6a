"""All that watches over connections of clients, in one hand.

The factories of the transports are given a :class:`Guard`; a protocol takes of it what concerns it.
:func:`make_guard` puts it together, with the counters of the node and lines in its log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from nuntwist.core.client import Client
from nuntwist.core.counters import Counters
from nuntwist.core.pipeline import Pipeline
from nuntwist.net import parting
from nuntwist.net.failed_tls import failed_tls
from nuntwist.net.gate import Gate
from nuntwist.net.idle import Idle
from nuntwist.net.log_limits import Tallies, Tally
from nuntwist.net.outlet import peer_name
from nuntwist.net.patience import Patience
from nuntwist.net.proxies import Trusted
from nuntwist.net.rate import Bucket, Meter, Rate
from nuntwist.net.unfinished import Unfinished

_log = Logger()


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator wants of clients; see docs/configuration.md.

    :ivar handshake: seconds for a handshake, or for the head of an HTTP request; 0 for any time.
    :ivar command: seconds for a command, message or body that has begun; 0 for any time.
    :ivar idle: seconds a client may be silent; 0 for ever.
    :ivar rate: commands a second of a connection; 0 for any number.
    :ivar proxies: addresses and networks of proxies that are believed.
    :ivar input_total: bytes of what is not whole, of all connections.
    """

    handshake: float = 10.0
    command: float = 60.0
    idle: float = 0.0
    rate: int = 0
    proxies: tuple[str, ...] = ()
    input_total: int = 128 << 20


@dataclass(frozen=True, slots=True)
class Guard:
    """What the transports share.

    :ivar rules: what it was made of.
    :ivar gate: says whether there are more than there may be; None where any number may.
    :ivar unfinished: is told of commands that are not whole.
    :ivar handshakes: of those that shake hands.
    :ivar commands: of those that have begun a command.
    :ivar partings: of those that we have ended.
    :ivar idle: of all connections.
    :ivar rate: of commands; None where they may come as fast as they will.
    :ivar trusted: the proxies that are believed.
    :ivar refuse_proxy: is told, on a port for proxies, of who or what was refused.
    :ivar refuse_page: is told of a page that may not connect.
    :ivar refuse_node: is told, where nodes have to show a certificate, of who was refused and why.
    :ivar refuse_tls: is told of whose handshake over TLS has failed, and why.
    """

    rules: Rules
    gate: Gate | None
    unfinished: Unfinished
    handshakes: Patience
    commands: Patience
    partings: Patience
    idle: Idle
    rate: Rate | None
    trusted: Trusted
    refuse_proxy: Callable[[str], None]
    refuse_page: Callable[[str], None]
    refuse_node: Callable[[str, str], None]
    refuse_tls: Callable[[str, str], None]

    def gone(self, transport: Any, reason: Failure, what: str) -> None:
        """A connection is gone; tell, where it is due to TLS that could not be agreed on.

        :param reason: of its ``connectionLost``.
        :param what: the kind of the port: TCP, WebSocket or HTTP.
        """
        failed = failed_tls(transport, reason)
        if failed is not None:
            refuse = self.refuse_node if failed.certificate else self.refuse_tls
            refuse(f"{peer_name(transport)} ({what})", failed.why)

    def stop(self) -> None:
        """The node has stopped: nothing waits for anybody."""
        for patience in (self.handshakes, self.commands, self.partings):
            patience.stop()
        self.idle.stop()

    def meter(
        self, pipeline: Pipeline, client: Client, bucket: Bucket | None = None
    ) -> Meter | None:
        """What stands between a connection and the pipeline; None where nothing does.

        :param bucket: of the connection, where it has other clients too.
        """
        rate = self.rate
        return None if rate is None else Meter(rate, bucket or rate.bucket(), pipeline, client)


SLOWED: Final = (
    "connections read later as they sent more than {limit:g} commands a second (NUN_COMMAND_RATE):"
    " {count}, the last one that of {last}"
)
LATE_HANDSHAKES: Final = (
    "connections closed as they were not done with their handshake, or with the head of an HTTP"
    " request, in {limit:g} s (NUN_HANDSHAKE_TIMEOUT): {count}, the last one from {last}"
)
LATE_COMMANDS: Final = (
    "connections closed as they had begun a command and not ended it in {limit:g} s"
    " (NUN_COMMAND_TIMEOUT): {count}, the last one from {last}"
)
IDLE_CLOSED: Final = (
    "connections closed as they were silent for {limit:g} s (NUN_IDLE_TIMEOUT): {count}, the last"
    " one from {last}"
)
CUT_OFF: Final = (
    "connections that were ended, did not go, had taken nothing more for {limit:g} s and were cut"
    " off: {count}, the last one from {last}"
)
PROXIES_REFUSED: Final = (
    "connections refused on a port for proxies (haproxy:): {count}, the last one that of {last}"
)
PAGES_REFUSED: Final = (
    "pages that were not let in (NUN_ALLOWED_ORIGINS): {count}, the last one from {last}"
)
NODES_REFUSED: Final = (
    "connections that were not let in as those of nodes (NUN_PEER_CA): {count}, the last one from"
    " {last}, which has shown {why}"
)
TLS_REFUSED: Final = (
    "handshakes over TLS that have failed: {count}, the last one with {last}: {why}"
)


def make_guard(
    counters: Counters,
    call_later: Callable[..., Any],
    seconds: Callable[[], float],
    rules: Rules | None = None,
    gate: Gate | None = None,
) -> Guard:
    """Make the guard of a node.

    :param call_later: IReactorTime.callLater.
    :param seconds: monotonic time, in seconds.
    :param rules: None for the defaults.
    """
    rules = rules or Rules()

    def noting(counter: str, sentence: str, limit: float = 0.0) -> Callable[[str], None]:
        return _noting(counters, seconds, counter, sentence, limit)

    def waits(allowed: float, note: Callable[[str], object]) -> Patience:
        return Patience(allowed, call_later, seconds, note)

    slowed = noting("slowed", SLOWED, rules.rate)
    late_handshakes = noting("late_handshakes", LATE_HANDSHAKES, rules.handshake)
    late_commands = noting("late_commands", LATE_COMMANDS, rules.command)
    idle_closed = noting("idle_closed", IDLE_CLOSED, rules.idle)
    return Guard(
        rules=rules,
        gate=gate,
        unfinished=Unfinished(rules.input_total, counters, seconds),
        handshakes=waits(rules.handshake, late_handshakes),
        commands=waits(rules.command, late_commands),
        partings=waits(parting.SECONDS, noting("cut_off", CUT_OFF, parting.SECONDS)),
        idle=Idle(rules.idle, call_later, seconds, idle_closed),
        rate=Rate(rules.rate, call_later, seconds, slowed) if rules.rate else None,
        trusted=Trusted(rules.proxies),
        refuse_proxy=noting("proxies_refused", PROXIES_REFUSED),
        refuse_page=noting("pages_refused", PAGES_REFUSED),
        refuse_node=_noting_why(counters, seconds, "nodes_refused", NODES_REFUSED),
        refuse_tls=_noting_why(counters, seconds, "failed_handshakes", TLS_REFUSED),
    )


def _noting(
    counters: Counters, seconds: Callable[[], float], counter: str, sentence: str, limit: float
) -> Callable[[str], None]:
    """Count by the name of a counter, and tell of it now and then."""
    tally = Tally(
        seconds, lambda count, last: _log.warn(sentence, count=count, last=last, limit=limit)
    )

    def note(who: str) -> None:
        _count(counters, counter)
        tally.note(who)

    return note


def _noting_why(
    counters: Counters, seconds: Callable[[], float], counter: str, sentence: str
) -> Callable[[str, str], None]:
    """The same, with each reason told of by itself."""
    tallies = Tallies(
        seconds, lambda count, last, why: _log.warn(sentence, count=count, last=last, why=why)
    )

    def note(who: str, why: str) -> None:
        _count(counters, counter)
        tallies.note(who, why)

    return note


def _count(counters: Counters, counter: str) -> None:
    setattr(counters, counter, getattr(counters, counter) + 1)
