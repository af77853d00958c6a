"""Targets: what other nodes say, and what a node keeps of its set."""

from __future__ import annotations

import random

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from nuntwist.cluster.copies import entries_of, pieces_of
from nuntwist.cluster.frame_forms import FrameError
from nuntwist.cluster.frames import FrameReader, Message, encode
from nuntwist.cluster.handshake import Accepting, Connecting, Self
from nuntwist.cluster.identity import FILE_NAME, Identity
from nuntwist.cluster.membership import MOST_MEMBERS, decode_members
from nuntwist.cluster.offers import first_of
from nuntwist.errors import CorruptData, StartError
from nuntwist.files import MemoryFiles
from nuntwist.net.peer import PeerProtocol
from nuntwist.oplog import record
from nuntwist.testing import HeapClock, MemoryTransport
from nuntwist.values import Op
from tests.fuzz import repairs
from tests.fuzz.target import nothing_fails, tried, ways_to_cut

KEY = b"k" * 32
U64 = 1 << 64


def frames(data: bytes) -> None:
    """Frames: the same in any pieces, up to where they are none; what is read is written again."""
    results = []
    for pieces in ways_to_cut(data):
        reader, found, damaged = FrameReader(), list[Message](), False
        for piece in pieces:
            messages = tried(FrameError, reader.feed, piece)
            if messages is None:
                damaged = True
                break
            found += messages
        results.append((list(map(encode, found)), damaged))
    # A piece that is damaged gives nothing of what is whole in it.
    if not data:
        return
    whole, bytewise, cut = results
    assert whole[1] == bytewise[1] == cut[1]
    assert bytewise[0][: len(whole[0])] == whole[0]
    if not whole[1]:
        assert whole == bytewise == cut
        again = FrameReader().feed(b"".join(whole[0]))
        assert list(map(encode, again)) == whole[0]


class _Seen:
    def __init__(self) -> None:
        self.told: list[object] = []

    def linked(self, link: PeerProtocol) -> None:
        self.told.append(link.peer)

    def received(self, link: PeerProtocol, message: Message) -> None:
        self.told.append(encode(message))

    def unlinked(self, link: PeerProtocol) -> None:
        self.told.append("gone")


def _side(accepts: bool) -> Connecting | Accepting:
    me, chance = Self(2, 7, "b:2") if accepts else Self(1, 7, "a:1"), random.Random(accepts)
    return (Accepting if accepts else Connecting)(me, KEY, chance)


def link(data: bytes) -> None:
    """A connection of another node, from the first line on; either side of it."""
    for accepts in (False, True):
        results = []
        for pieces in ways_to_cut(data):
            with nothing_fails():
                seen, clock, transport = _Seen(), HeapClock(), MemoryTransport()
                protocol = PeerProtocol(_side(accepts), seen, clock, 0.1, 0.5)  # type: ignore[arg-type]
                protocol.makeConnection(transport)
                for piece in pieces:
                    protocol.dataReceived(piece)
                clock.advance(100)
                protocol.connectionLost(Failure(ConnectionDone()))
                assert not clock.getDelayedCalls()
            results.append([one for one in seen.told if not isinstance(one, bytes)])
            peers = [one for one in seen.told if isinstance(one, Self)]
            assert len(peers) <= 1
            assert all(len(peer.address) <= 255 and peer.address.isascii() for peer in peers)
        assert all(result == results[0] for result in results)


def link_repair(data: bytes, lengths: bool) -> bytes:
    """Right checksums in what comes behind the last line."""
    start = max(data.find(b"\nproof "), data.find(b"\nwelcome "))
    if start < 0:
        return data
    end = data.find(b"\n", start + 1) + 1
    return data[:end] + repairs.peer_frames(data[end:], lengths)


def handshake_lines() -> tuple[bytes, bytes]:
    """What a right other side says to one that has connected, and to one that accepts."""
    connecting, accepting = _side(False), _side(True)
    assert isinstance(connecting, Connecting)
    said, answered = [connecting.begin()], []
    while said[-1]:
        answered.append(accepting.receive(said[-1][:-1]))
        if not answered[-1]:
            break
        said.append(connecting.receive(answered[-1][:-1]))
    assert accepting.peer
    assert connecting.peer
    return b"".join(answered), b"".join(said)


def copy_piece(data: bytes) -> None:
    """A piece of a copy of all."""
    found = tried(CorruptData, lambda: list(entries_of(data)))
    if found is not None:
        again = [one for piece, _ in pieces_of(found) for one in entries_of(piece)]
        assert _ops(again) == _ops(found)


def _ops(entries: list[tuple[int, list[Op]]]) -> list[Op]:
    return [op for _, ops in entries for op in ops]


def records(data: bytes) -> None:
    """Records as other nodes send them."""
    found = tried(CorruptData, record.split, data, "a test")
    if found is None:
        return
    assert b"".join(one.data for one in found) == data
    for one in found:
        head = record.read_head(one.data, 0, "a test", 0)
        again = record.split(record.encode(one.epoch, head.origin, one.ops), "a test")
        assert [ops.ops for ops in again] == [one.ops]


def members(data: bytes) -> None:
    """The members of a set: what cannot be read is no set."""
    found = decode_members(data)
    assert 0 <= found.set_id < U64
    assert len(found.members) <= MOST_MEMBERS
    for node, address in found.members.items():
        assert 0 < node < U64
        assert isinstance(address, str)
        address.encode()
    assert decode_members(found.encode()) == found


def identity(data: bytes) -> None:
    """The file of the identity: a sentence, or what can be written again."""
    files = MemoryFiles()
    files.contents[FILE_NAME] = bytearray(data)
    try:
        found = Identity(files, random.Random(1))
    except StartError as error:
        assert FILE_NAME in str(error)
        return
    standing = found.standing
    for one in (found.node_id, *found.epoch, standing.formed, standing.left, standing.reached):
        assert 0 <= one < U64
    assert found.node_id
    found.note(boot="another", clean=not standing.clean)
    again = Identity(files, random.Random(2))
    assert (again.node_id, again.epoch, again.standing) == (
        found.node_id,
        found.epoch,
        found.standing,
    )


def divergent(data: bytes) -> None:
    """The name of a file of what was cut off."""
    found = first_of(data.decode("utf-8", "surrogateescape"))
    assert found is None or (0 <= found < U64 and data.isascii())
