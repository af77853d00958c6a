"""The composition root: builds a node from its configuration and runs it as a service.

``twistd nundb``, a .tac file, the command line and the integration tests all come through
:func:`make_node_service`. The life of the service:

- ``privilegedStartService`` opens the data directory, recovers, becomes primary (or takes part in
  its replica set), and listens;
  whatever is in the way is one sentence in a StartError.
- ``startService`` starts the schedule of snapshots and takes over SIGTERM and SIGINT, so that
  the process ends with status 0 after an orderly stop.
- ``stopService`` hands over to another node of the set, stops listening, answers what is in
  flight, closes WebSockets with a close frame, takes a snapshot and closes the log.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Generator
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from nuntwist import __version__, heap
from nuntwist.certificates import Certificates
from nuntwist.cluster.afresh import take_log_away
from nuntwist.cluster.alone import AloneElection
from nuntwist.cluster.identity import Identity
from nuntwist.config import NodeConfig
from nuntwist.core.audit import Audit
from nuntwist.core.counters import NodeInfo
from nuntwist.core.installing import begin_afresh
from nuntwist.core.limits import Limits
from nuntwist.core.node import Node
from nuntwist.core.quota import Quota
from nuntwist.core.schedule import Schedule
from nuntwist.core.settling import Settling
from nuntwist.errors import CommandError, CorruptData, StartError
from nuntwist.files_on_disk import DiskFiles
from nuntwist.listening import Listening
from nuntwist.logs import AuditFile
from nuntwist.net.gate import Gate
from nuntwist.net.guard import Rules, make_guard
from nuntwist.net.http import NqlResource, NqlSite
from nuntwist.net.proxies import Trusted
from nuntwist.net.rounds import Rounds
from nuntwist.net.tcp_port import LineFactory
from nuntwist.net.websocket_port import FrameFactory
from nuntwist.oplog.flushed import FlushedOplog
from nuntwist.oplog.segments import FileOplog
from nuntwist.replicas import Replicas, make_replicas
from nuntwist.secrets import ScryptSecrets
from nuntwist.sentences import counted, damaged, where
from nuntwist.storage.choose import Means, find_kind, make_storage

HASHING_THREADS = 2
WRITING_THREADS = 2
FLUSHING_THREADS = 2
FLUSH_SECONDS = 1.0
"""How often the log is flushed with durability ``interval``."""
OPEN_FILES = 200
"""Files beside the connections of clients that a node may need open."""
GRACE_SECONDS = 5.0
"""How long a stop waits for clients to take what they were sent."""


def make_node_service(config: NodeConfig, reactor: Any = None) -> IService:
    """Build a node; nothing is opened before it is started.

    :param reactor: what to run on; None for the process's own.
    """
    if reactor is None:
        from twisted.internet import reactor
    return NodeService(config, reactor)


@implementer(IService)
class NodeService(Service):
    """A node on a reactor, with its files, threads and listeners.

    :ivar node: the node, once it is started.
    """

    _log = Logger()
    node: Node

    def __init__(self, config: NodeConfig, reactor: Any) -> None:
        self.config = config
        self._replicas: Replicas | None = None
        self._reactor = reactor
        self._hashing = ThreadPool(0, HASHING_THREADS, name="hashing")
        self._writing = ThreadPool(0, WRITING_THREADS, name="writing")
        self._flushing = ThreadPool(0, FLUSHING_THREADS, name="flushing")
        self._uploading = ThreadPool(0, config.s3_max_inflight_requests, name="uploading")
        self._rounds = Rounds(reactor)
        self._started = False
        self._stopping = False

    # -- starting ----------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Open, recover, listen.

        :raise StartError: it cannot start.
        """
        # Twisted's own clock is wall time; a step of it would fire or hold up every timer.
        self._reactor.seconds = time.monotonic
        for warning in self.config.warnings:
            self._log.warn("{warning}", warning=warning)
        self._undo: list[Callable[[], object]] = []
        try:
            self._build()
            self._recover()
            self._raise_epoch()
            self._begin_audit()
            self._replicas = make_replicas(
                self.config, self.node, self._identity, self._files, self._reactor
            )
            if self._replicas is None:
                self.node.start()
            else:
                self._replicas.start()
                self._undo.append(self._replicas.stop)
            self._listen()
            if self._replicas is not None:
                self._replicas.connect()
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            self._stop_threads()
            raise
        super().privilegedStartService()

    def _allowed_connections(self) -> int:
        """How many connections there may be: as many as are configured, where the process may
        open so many files."""
        most = self.config.max_connections
        wanted = most + OPEN_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return most
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
        if soft >= wanted:
            return most
        fitting = max(1, soft - OPEN_FILES)
        self._log.info(
            "this process may open {allowed} files, so {fitting} connections are allowed and not"
            " {most} (NUN_MAX_CONNECTIONS); ulimit -n {wanted} allows them",
            allowed=soft,
            fitting=fitting,
            most=most,
            wanted=wanted,
        )
        return fitting

    def _build(self) -> None:
        config, reactor = self.config, self._reactor
        files = self._files = DiskFiles(config.dbs_dir)
        files.lock()
        self._undo.append(files.unlock)
        identity = Identity(files, random.SystemRandom())
        self._afresh = take_log_away(files, identity)
        self._files = files
        self._oplog = self._make_log(files, identity)
        self._storage = make_storage(
            Means(
                config,
                files,
                self._in_thread(self._writing),
                self._in_thread(self._uploading),
                identity.node_id,
            )
        )
        for part in (self._oplog, self._storage):
            try:
                part.open()
                self._undo.append(part.close)
            except CorruptData as error:
                raise damaged(error, config.dbs_dir, False) from None
        self._identity = identity
        self.node = Node(
            info=NodeInfo(
                config.node_address or "127.0.0.1:3014",
                config.user.encode(),
                config.password.encode(),
                int(time.time() * 1000),
            ),
            oplog=self._oplog,
            storage=self._storage,
            secrets=ScryptSecrets(
                self._in_thread(self._hashing), os.urandom, sealing=config.peer_secret
            ),
            election=AloneElection(identity),
            wall=time.time,
            call_later=reactor.callLater,
            seconds=time.monotonic,
            call_at_end=self._rounds.call_at_end,
            limits=_limits(config),
            elsewhere=bool(find_kind(config.read_strategy).elsewhere),
            in_set=bool(config.replicate_addresses) or identity.standing.formed != 0,
        )

    def _make_log(self, files: DiskFiles, identity: Identity) -> FileOplog | FlushedOplog:
        config = self.config
        in_thread = self._in_thread(self._flushing)
        log = FileOplog(files, identity.node_id, in_thread, config.max_oplog_bytes)
        if config.durability == "os":
            return log
        return FlushedOplog(log, before_answers=config.durability == "disk")

    def _in_thread(self, pool: ThreadPool) -> Any:
        def run(function: Any, *args: Any) -> Deferred[Any]:
            if not pool.started:
                pool.start()
            return deferToThreadPool(self._reactor, pool, function, *args)

        return run

    def _recover(self) -> None:
        began = time.monotonic()
        if self._afresh:
            begin_afresh(self.node, self._files)
            return
        outcome: list[int | Failure] = []
        self.node.recover().addBoth(outcome.append)
        replayed = outcome[0] if outcome else Failure(StartError("the storage did not answer."))
        if isinstance(replayed, Failure):
            if isinstance(replayed.value, CorruptData):
                error = replayed.value
                from_log = error.path.startswith("database-") and self._oplog.first == 1
                raise damaged(error, self.config.dbs_dir, from_log) from None
            if isinstance(replayed.value, StartError):
                raise replayed.value from None
            replayed.raiseException()
        heap.tune()
        heap.freeze()
        catalogue = self.node.catalogue
        databases = [d for d in catalogue.by_id.values() if d is not catalogue.admin]
        if not databases and not self._oplog.last.index:
            self._log.info("there are no databases in {where} yet", where=self.config.dbs_dir)
            return
        keys = sum(1 for database in databases for _ in database.visible_keys(False))
        self._log.info(
            "recovered {databases} with {keys} from {where} in {seconds:.2f} s, {replayed} of the"
            " log replayed",
            databases=counted(len(databases), "database"),
            keys=counted(keys, "key"),
            where=self.config.dbs_dir,
            seconds=time.monotonic() - began,
            replayed=counted(replayed, "operation"),
        )

    def _raise_epoch(self) -> None:
        """Take note of the highest epoch that the log and the snapshots know of."""
        known = [header.epoch for header in self._storage.held.values()]
        try:
            self._identity.raise_epoch(max([self._oplog.last.epoch, *known]))
        except OSError as error:
            raise StartError(
                f"The data directory {self.config.dbs_dir} cannot be written: {error.strerror}."
            ) from None

    def _begin_audit(self) -> None:
        if not self.config.audit_file:
            return
        try:
            file = AuditFile(self.config.audit_file, time.monotonic)
        except OSError as error:
            raise StartError(
                f"The audit cannot be written to {self.config.audit_file}: {error.strerror}."
            ) from None
        self._undo.append(file.close)
        self.node.pipeline.deciding.audit = Audit(self.node.catalogue)

    def _listen(self) -> None:
        pipeline, config = self.node.pipeline, self.config
        gate = Gate(
            self._allowed_connections(),
            config.max_connections_of_one,
            self.node.counters,
            time.monotonic,
            Trusted(config.trusted_proxies),
        )
        certificates = self._certificates = Certificates(time.time, config.peer_ca)
        certificates.check_authority()
        call_later = self._reactor.callLater
        guard = make_guard(self.node.counters, call_later, time.monotonic, _rules(config), gate)
        self._guard = guard
        listening = self._listening = Listening(self._reactor, guard, certificates, config.peer_ca)
        self._undo.append(listening.close)
        peers = None if self._replicas is None else self._replicas.open_door
        self._lines = LineFactory(pipeline, guard, call_later, peers, bool(config.peer_ca))
        self._frames = FrameFactory(
            pipeline, guard, self._reactor, call_later, config.allowed_origins
        )
        answers = NqlResource(pipeline, None, config.allowed_origins)
        self._site = NqlSite(answers, guard, self._reactor, config.max_body)
        plan = (
            ("TCP", config.tcp_endpoints, self._lines),
            ("WebSocket", config.websocket_endpoints, self._frames),
            ("HTTP", config.http_endpoints, self._site),
        )
        for what, endpoints, factory in plan:
            for endpoint in endpoints:
                port = listening.listen(endpoint, factory)
                self._log.info("listening for {what} on {address}", what=what, address=where(port))
                if what == "WebSocket" and answers.ws_port is None:
                    answers.ws_port = getattr(port.getHost(), "port", None)

    def startService(self) -> None:
        """Run the timer of snapshots; end in order on a signal."""
        super().startService()
        self._started = True
        self._rounds.install()
        node, seconds = self.node, self.config.declutter_seconds
        self._schedule = Schedule(node.snapshots, self._reactor, seconds)
        # A log that was begun after snapshots from elsewhere needs some of its own soon.
        base, covered = self._oplog.base, node.catalogue.admin.saved_index
        self._schedule.start(at_once=base > 0 and covered < base)
        self._settling = Settling(
            node, self._reactor, self.config.conflict_seconds, self.config.resolved_seconds
        )
        self._settling.start()
        node.desk.start(self._reactor, self.config.arbiter_seconds)
        self._certificates.start(self._reactor)
        self._flush_log = LoopingCall(self._flush)
        self._flush_log.clock = self._reactor
        self._flush_log.start(FLUSH_SECONDS, now=False)
        self._reactor.callWhenRunning(self._take_signals)

    def _take_signals(self) -> None:
        # Twisted's own handlers make twistd end by the signal itself; an orderly stop is a
        # success, and service managers look at the exit status.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop_on_signal)
        signal.signal(signal.SIGHUP, self._renew_on_signal)
        self._log.info("nuntwist {version} is ready", version=__version__)

    def _stop_on_signal(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._stop_reactor, signal.Signals(number).name)

    def _renew_on_signal(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._certificates.renew)

    def _stop_reactor(self, name: str) -> None:
        if self._stopping:
            # The reactor runs on while the stop is under way, but takes no second one.
            self._log.info("already stopping, {name} changes nothing", name=name)
            return
        self._stopping = True
        self._log.info("stopping on {name}", name=name)
        if self._reactor.running:
            self._reactor.stop()

    # -- running -----------------------------------------------------------------------------

    def _flush(self) -> None:
        if isinstance(self._oplog, FlushedOplog):
            self._oplog.flush_now()

    # -- stopping ----------------------------------------------------------------------------

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Stop in order.

        :return: a Deferred that fires with None when all is on the disk.
        """
        super().stopService()
        if not self._started:
            return
        self._started = False
        self._flush_log.stop()
        self._settling.stop()
        self.node.desk.stop()
        self._certificates.stop()
        if self._replicas is not None:
            yield self._replicas.hand_over()
        yield self._listening.close()
        if self._guard.rate is not None:
            self._guard.rate.end()
        self._lines.finish_all()
        self._frames.finish_all()
        yield self._clients_gone()
        self._guard.stop()
        if self._replicas is not None:
            yield self._replicas.stop()
        self.node.end_transfers()
        self.node.snapshots.wait_no_more()
        yield self._schedule.stop()
        try:
            # What fails is logged where it happens; the log has all.
            with contextlib.suppress(CommandError):
                yield self.node.snapshots.take_changed()
        finally:
            for undo in reversed(self._undo):
                undo()
            self._stop_threads()
        if self._replicas is not None:
            self._replicas.note_stopped()
        self._log.info("stopped")

    def _stop_threads(self) -> None:
        for pool in (self._hashing, self._writing, self._flushing, self._uploading):
            if pool.started:
                pool.stop()

    @inlineCallbacks
    def _clients_gone(self) -> Generator[Deferred[Any], Any, None]:
        until = time.monotonic() + GRACE_SECONDS
        counters = self.node.counters
        # Those that close count as well: the end of the process would reset a connection with
        # unread input, and what is on its way to the client would be lost.
        while (counters.connections or self._frames.closing) and time.monotonic() < until:
            yield deferLater(self._reactor, 0.01)
        if counters.connections:
            self._log.warn(
                "{count} connections did not take their last answers in {seconds} s",
                count=counters.connections,
                seconds=GRACE_SECONDS,
            )


def _limits(config: NodeConfig) -> Limits:
    """What the core is limited to."""
    return Limits(
        line=config.max_line,
        output_high_water=config.output_high_water,
        output_limit=config.output_limit,
        output_total=config.output_total,
        replay=config.max_oplog_bytes // 4,
        partitions=config.s3_number_of_partitions,
        min_replicas=config.min_replicas,
        key=config.max_key,
        value=config.max_value,
        watches=config.max_watches,
        watch_total=config.watch_total,
        arbiter_window=config.arbiter_window,
        quota=Quota(config.max_databases, config.max_keys, config.max_database_size),
        failed_logins=config.failed_logins,
        token_warning=config.token_warning,
    )


def _rules(config: NodeConfig) -> Rules:
    return Rules(
        handshake=config.handshake_seconds,
        command=config.command_seconds,
        idle=config.idle_seconds,
        rate=config.command_rate,
        proxies=config.trusted_proxies,
        input_total=config.input_total,
    )
