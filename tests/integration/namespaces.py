"""Network namespaces: each node on a machine of its own, as far as the network is concerned.

::

    nun-PID-0 ──veth──┐
    nun-PID-1 ──veth──┤ bridge nunPID ── 198.18.N.254, where the tests and their clients are
    nun-PID-2 ──veth──┘

A way that is cut drops packets by a rule of iptables, as a firewall does: neither end is told, TCP
sends again with longer and longer pauses, and connections are attempted in vain. Names carry the id
of the process that made them, so that runs beside each other do not meet, and whatever a run that
was killed has left is taken away by the next one.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.integration.harness import LIMIT, Process
from tests.integration.replica_set import NodeSet

PORT = 3014
_OURS = re.compile(r"\bnun-?(\d+)(?:-\d+)?\b")


class CannotRun(Exception):
    """A command has failed; its text says how."""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode != 0:
        raise CannotRun(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def why_not() -> str | None:
    """Why there can be no namespaces here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    for program, package in (("ip", "iproute2"), ("iptables", "iptables")):
        if shutil.which(program) is None:
            return f"there is no {program} here (Debian: {package})"
    try:
        Network(1).close()
    except CannotRun as error:
        return f"this system has no network namespaces: {error}"
    return None


def sweep() -> None:
    """Take away what runs that are gone have left."""
    for kind, listed in (("netns", ("ip", "netns")), ("link", ("ip", "-o", "link"))):
        for found in _OURS.finditer(_run(*listed)):
            if not Path(f"/proc/{found[1]}").exists():
                with suppress(CannotRun):
                    _run("ip", kind, "delete", found[0])


class Network:
    """Some machines on one bridge.

    :ivar names: of the namespaces.
    :ivar hosts: the address of each machine.
    """

    def __init__(self, size: int) -> None:
        sweep()
        me = os.getpid()
        self._bridge = f"nun{me}"
        self.names = [f"nun-{me}-{place}" for place in range(size)]
        taken = set(re.findall(r"198\.18\.(\d+)\.", _run("ip", "-o", "address")))
        # Of a range that is for tests between networks (RFC 2544), what no run beside has.
        # Runs that begin at the same moment look at different ones first.
        nets = [(me + n) % 256 for n in range(256)]
        net = next(f"198.18.{n}" for n in nets if str(n) not in taken)
        self.hosts = [f"{net}.{place + 1}" for place in range(size)]
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge")
            _run("ip", "address", "add", f"{net}.254/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
            for place in range(size):
                self._add(place)
        except BaseException:
            self.close()
            raise

    def _add(self, place: int) -> None:
        name, outer = self.names[place], f"{self._bridge}-{place}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", outer, "master", self._bridge, "up")
        for words in (
            ("address", "add", f"{self.hosts[place]}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _run("ip", "-n", name, *words)
        # Whether the rules can be had is to show now.
        self._iptables(place, "-F", "INPUT")

    def close(self) -> None:
        """Take all of it away, however much there is."""
        for name in self.names:
            with suppress(CannotRun):
                _run("ip", "netns", "delete", name)
        with suppress(CannotRun):
            _run("ip", "link", "delete", self._bridge)

    def _iptables(self, place: int, *words: str) -> None:
        _run("ip", "netns", "exec", self.names[place], "iptables", "-w", *words)

    # -- what goes wrong ---------------------------------------------------------------------

    def cut(self, sender: int, receiver: int) -> None:
        """Nothing arrives any more in this direction."""
        self._iptables(receiver, "-A", "INPUT", "-s", self.hosts[sender], "-j", "DROP")

    def part(self, one: int, other: int) -> None:
        """Two do not reach each other."""
        self.cut(one, other)
        self.cut(other, one)

    def isolate(self, place: int) -> None:
        """One reaches no other, and no other reaches it."""
        for other in range(len(self.hosts)):
            if other != place:
                self.part(place, other)

    def heal(self) -> None:
        """All arrives again."""
        for place in range(len(self.hosts)):
            self._iptables(place, "-F", "INPUT")


class FarNodes(NodeSet):
    """Nodes in namespaces of their own.

    :param settings: of all nodes, beside those of the harness.
    """

    def __init__(self, where: Path, size: int = 3, **settings: str) -> None:
        self.network = Network(size)
        addresses = [f"{host}:{PORT}" for host in self.network.hosts]
        processes = [
            Process(
                where / f"node-{place}",
                variables={
                    "NUN_TCP_ADDR": f"tcp:{PORT}:interface={host}",
                    "NUN_EXTERNAL_ADDR": f"{host}:{PORT}",
                    "NUN_REPLICATE_ADDR": ",".join(addresses),
                    **settings,
                },
                before=("ip", "netns", "exec", self.network.names[place]),
            )
            for place, host in enumerate(self.network.hosts)
        ]
        super().__init__(processes, addresses)

    def heal(self) -> None:
        """All arrives again."""
        self.network.heal()

    def close_network(self) -> None:
        """Take the namespaces away."""
        self.network.close()
