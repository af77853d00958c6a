"""A set of nodes that show each other certificates (NUN_PEER_CA), and who is not let in."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.certificates import Authority
from tests.integration.harness import LIMIT, OK, Lines, Process, no_trace_of_trouble, wait_until
from tests.integration.replica_set import NodeSet
from tests.integration.steady import steadily
from tests.ports import free_ports

FILES = ":privateKey=key.pem:certificate=cert.pem"
"""Of each node, in the directory where it runs."""
REFUSED = "not let in as those of nodes (NUN_PEER_CA)"
SETTLED = 1.2
"""Seconds in which whoever is refused has come a few times."""


class Certified(Process):
    """A node whose TCP port speaks TLS.

    :param authority: which clients trust.
    """

    def __init__(self, where: Path, authority: Path, variables: dict[str, str]) -> None:
        super().__init__(where, variables=variables)
        self.trust = ssl.create_default_context(cafile=str(authority))

    def secured(self) -> ssl.SSLSocket:
        """Connect over TLS, with a look at whose certificate it is."""
        plain = socket.create_connection(self.address("TCP"), LIMIT)
        return self.trust.wrap_socket(plain, server_hostname="127.0.0.1")

    def tcp(self) -> Lines:
        """Connect; the greeting is taken."""
        return Lines(self.secured())

    def shown(self) -> int:
        """The serial number of the certificate that it shows."""
        with self.secured() as connection:
            return int(str((connection.getpeercert() or {})["serialNumber"]), 16)


class CertifiedSet(NodeSet):
    """Three of them, and one that they refuse.

    :ivar stranger: that one; it does not run.
    """

    processes: list[Certified]  # type: ignore[assignment]  # they are made here

    def __init__(self, where: Path) -> None:
        self.where = where
        self.own, self.other = Authority(where / "ca"), Authority(where / "other", "other")
        self.ports = free_ports(4)
        made = [self._made(place) for place in range(4)]
        self.stranger = made.pop()
        super().__init__(made, [self.address(place) for place in range(3)])

    def address(self, place: int, files: str = FILES) -> str:
        """Under which one is reached."""
        return f"tls:127.0.0.1:{self.ports[place]}:trustRoots={self.own.directory}{files}"

    def close_network(self) -> None:
        """End the stranger, where it runs and was not let in."""
        if self.stranger.child is not None:
            self.stranger.kill()

    def renew(self, place: int) -> None:
        """Give one another certificate while it runs."""
        process = self.processes[place]
        self.own.issue(process.directory)
        told = process.log.count("read the certificate of ssl:")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: process.log.count("read the certificate of ssl:") > told, "a line")

    def standing(self) -> list[tuple[Any, ...]]:
        """What each of the three says of its set."""
        states = [self.state(place) for place in range(3)]
        return [(one["set_id"], one["epoch"], one["primary"], one["last"]) for one in states]

    def afresh(self) -> None:
        """Three that know nothing, with certificates of their own authority, form a set."""
        if self.stranger in self.processes:
            self.processes.remove(self.stranger)
            self.addresses.pop()
        self.close_network()
        self.forget()
        shutil.rmtree(self.stranger.data, ignore_errors=True)
        for process in (*self.processes, self.stranger):
            self.own.issue(process.directory)
            process.variables["NUN_REPLICATE_ADDR"] = self._replicas()
        self.form()

    def _replicas(self) -> str:
        return ",".join(self.address(other) for other in range(3))

    def _made(self, place: int) -> Certified:
        self.own.issue(self.where / f"node-{place}")
        return Certified(
            self.where / f"node-{place}",
            self.own.file,
            {
                "NUN_TCP_ADDR": f"ssl:{self.ports[place]}:interface=127.0.0.1:privateKey=key.pem"
                ":certKey=cert.pem",
                "NUN_EXTERNAL_ADDR": self.address(place),
                "NUN_REPLICATE_ADDR": self._replicas(),
                "NUN_PEER_CA": str(self.own.file),
            },
        )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CertifiedSet]:
    """A set that is formed. The tests leave it as one, the last of them with a fourth member."""
    with CertifiedSet(tmp_path_factory.mktemp("certified")) as nodes:
        nodes.form()
        yield nodes


@steadily(CertifiedSet.afresh)
def test_it_is_a_set_as_any_other(nodes: CertifiedSet) -> None:
    """Written at one, seen at another, also when its primary has gone and come back; a node whose
    certificate was replaced shows the new one to whoever comes, and links go on."""
    primary = nodes.primary()
    one, other = (place for place in range(3) if place != primary)
    writer = nodes.admin(one, "create-db d t", "use-db d t")
    watcher = nodes.admin(other, "use-db d t", "watch k")

    def written_and_seen(value: str) -> None:
        assert writer.ask(f"set k {value}")[-1] == OK
        assert watcher.line() == f"changed k {value}\n".encode()
        assert watcher.line().startswith(b"changed-version k ")

    written_and_seen("1")
    before = nodes.processes[one].shown()
    nodes.renew(one)
    assert nodes.processes[one].shown() != before
    written_and_seen("2")
    nodes.kill(primary)
    assert nodes.primary() in (one, other)
    written_and_seen("3")
    nodes.start(primary)
    nodes.wait_until_formed()
    nodes.wait_until_equal()
    with nodes.admin(primary, "use-db d t") as client:
        assert client.ask("get k")[0] == b"value 3\n"
    writer.close()
    watcher.close()
    for process in nodes.processes:
        assert REFUSED not in process.log
        assert "over TLS that have failed" not in process.log
        no_trace_of_trouble(process.log)


@steadily(CertifiedSet.afresh)
def test_strangers_are_told_what_is_wrong_and_disturb_nobody(nodes: CertifiedSet) -> None:
    """One without a certificate, then one of another authority; with the right one it is let in."""
    before = nodes.standing()
    stranger, bare = nodes.stranger, ",".join(nodes.address(other, "") for other in range(3))

    def refused(on_its_side: str, on_the_others: str) -> None:
        """Wait until all have told of it; then nobody tells of it again."""
        for process in nodes.processes:
            wait_until(lambda process=process: on_the_others in process.log, on_the_others)
        wait_until(lambda: stranger.log.count(on_its_side) == 3, on_its_side)
        time.sleep(SETTLED)
        assert [process.log.count(on_the_others) for process in nodes.processes] == [1, 1, 1]
        # That is once for each address.
        assert stranger.log.count(on_its_side) == 3

    with_files = stranger.variables["NUN_REPLICATE_ADDR"]
    stranger.variables["NUN_REPLICATE_ADDR"] = bare
    stranger.start()
    refused("give the address as tls:host:port:certificate=FILE", "has shown no certificate: ")
    stranger.kill()
    stranger.variables["NUN_REPLICATE_ADDR"] = with_files
    nodes.other.issue(stranger.directory)
    stranger.start()
    refused(
        "put one here that an authority in its NUN_PEER_CA has signed",
        "a certificate of an authority that is not in NUN_PEER_CA: give that node one",
    )
    assert nodes.standing() == before
    for process in (*nodes.processes, stranger):
        no_trace_of_trouble(process.log)
        assert "SSL routines" not in process.log
    # Where it is put right nothing has to be started again.
    nodes.processes.append(stranger)
    nodes.addresses.append(nodes.address(3))
    nodes.renew(3)
    nodes.wait_until_formed()
    wait_until(lambda: stranger.log.count("is reached again") == 3, "a line for each address")
    assert [one[:3] for one in nodes.standing()] == [one[:3] for one in before]
