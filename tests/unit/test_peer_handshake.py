"""Two nodes prove to each other that they have the same secret; nobody else gets anywhere."""

from __future__ import annotations

import hmac
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuntwist.cluster.handshake import (
    LONGEST,
    Accepting,
    Connecting,
    Peer,
    Self,
    Stage,
    peer_key,
)

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
A, B = Self(0xA, 7, "a:3014"), Self(0xB, 7, "b:3014")


def pair(
    key: bytes = KEY, other_key: bytes = KEY, a: Self = A, b: Self = B, seed: int = 1
) -> tuple[Connecting, Accepting]:
    chance = random.Random(seed)
    return Connecting(a, key, chance), Accepting(b, other_key, chance)


def talk(connecting: Connecting, accepting: Accepting) -> list[bytes]:
    """All lines, in order."""
    said, line = [], connecting.begin()
    sides = [accepting, connecting]
    while line:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        said.append(line)
        to = sides[(len(said) + 1) % 2]
        if to.stage in (Stage.WELCOME, Stage.REFUSED):
            break
        line = to.receive(line[:-1])
    return said


def test_two_nodes_of_a_set() -> None:
    connecting, accepting = pair()
    said = talk(connecting, accepting)
    words = [line.split()[0] for line in said]
    assert words == [b"peer", b"peer", b"prove", b"proof", b"welcome"]
    assert (connecting.stage, connecting.peer) == (Stage.WELCOME, Peer(0xB, 7, "b:3014"))
    assert (accepting.stage, accepting.peer) == (Stage.WELCOME, Peer(0xA, 7, "a:3014"))
    assert connecting.refusal is accepting.refusal is None


def test_who_is_of_no_set_is_let_in() -> None:
    connecting, accepting = pair(a=Self(0xA, 0, "-"))
    talk(connecting, accepting)
    assert accepting.peer == Peer(0xA, 0, "-")
    assert connecting.peer == Peer(0xB, 7, "b:3014")


def test_who_connects_with_another_secret_is_refused_without_a_proof() -> None:
    connecting, accepting = pair(other_key=OTHER_KEY)
    said = talk(connecting, accepting)
    assert said[-1] == b"refused the two nodes do not have the same secret\n"
    assert accepting.refusal == "the two nodes do not have the same secret"
    assert connecting.refusal == "the other node says: the two nodes do not have the same secret"
    # And it was told nothing of the set, nor given anything to try guesses on.
    assert [line.split()[0] for line in said] == [b"peer", b"peer", b"prove", b"refused"]
    assert not any(b"3014" in line or b"%016x" % 7 in line for line in said)


@pytest.mark.parametrize("last", [False, True])
def test_who_guesses_a_proof_is_refused(last: bool) -> None:
    """At the first and at the last."""
    said = talk(*pair())
    _, accepting = pair()
    for line in (said[0], said[2])[: 1 + last]:
        accepting.receive(line[:-1])
    guess = b"welcome %b %016x x:1" % (b"0" * 64, 7) if last else b"prove " + b"0" * 64
    assert accepting.receive(guess) == b"refused the two nodes do not have the same secret\n"
    assert accepting.peer is None


def test_who_only_poses_as_a_node_is_told_nothing_of_the_set() -> None:
    connecting, _ = pair()
    first = connecting.begin()
    prove = connecting.receive(b"peer 1 %016x %032x" % (0xB, 5))
    guess = b"proof %b %016x b:3014" % (b"0" * 64, 7)
    assert connecting.receive(guess) == b"refused the two nodes do not have the same secret\n"
    assert b"3014" not in first + prove


def test_sets_are_told_to_who_has_proved_that_it_has_the_secret() -> None:
    """Which of two sets stays is decided by those who know that they may talk."""
    connecting, accepting = pair(b=Self(0xB, 8, "b:3014"))
    said = talk(connecting, accepting)
    assert not any(b"%016x" % 8 in line or b"%016x" % 7 in line for line in said[:3])
    told = [side.peer.set_id if side.peer else None for side in (connecting, accepting)]
    assert told == [8, 7]


def test_a_node_does_not_talk_to_itself() -> None:
    connecting, accepting = pair(b=A)
    assert talk(connecting, accepting)[-1] == b"refused that is the node itself\n"


@pytest.mark.parametrize("rest", [b"", b" x", b" %016x %032x" % (0xC, 5), b" \xff some more"])
def test_another_version_is_told_which_one_is_spoken(rest: bytes) -> None:
    """Whatever else that version says in its first line."""
    for side in pair():
        assert side.receive(b"peer 2" + rest) == b"refused version 1 is spoken here, not 2\n"
        assert side.stage is Stage.REFUSED


@pytest.mark.parametrize("more", [b" ", b" x", b"0", b" %064x" % 0])
def test_a_first_line_is_no_longer_than_it_must_be(more: bytes) -> None:
    connecting, accepting = pair()
    answer = accepting.receive(connecting.begin()[:-1] + more)
    assert answer == b"refused that is no line of the handshake\n"


def test_what_was_recorded_does_not_help_later() -> None:
    said = talk(*pair(seed=1))
    _, accepting = pair(seed=2)
    accepting.receive(said[0][:-1])
    assert accepting.receive(said[2][:-1]).startswith(b"refused")
    connecting, _ = pair(seed=3)
    connecting.begin()
    connecting.receive(said[1][:-1])
    assert connecting.receive(said[3][:-1]).startswith(b"refused")


def test_what_a_node_says_cannot_be_sent_back_to_it() -> None:
    """Somebody without the secret lets two connections of one node answer each other."""
    connecting, accepting = pair(b=Self(0xA, 7, "a:3014"))
    greeting = connecting.begin()[:-1].replace(b"%016x" % 0xA, b"%016x" % 0xC)
    answer = accepting.receive(greeting)[:-1]
    assert connecting.receive(answer) == b"refused that is the node itself\n"
    # With another id in its own first line, what it proves is about other first lines.
    connecting, accepting = pair(b=Self(0xA, 7, "a:3014"))
    greeting = connecting.begin()[:-1].replace(b"%016x" % 0xA, b"%016x" % 0xC)
    answer = accepting.receive(greeting)[:-1].replace(b"%016x" % 0xA, b"%016x" % 0xC)
    prove = connecting.receive(answer)
    assert prove.startswith(b"prove")
    assert accepting.receive(prove[:-1]).startswith(b"refused")


def test_a_proof_sent_back_is_no_welcome() -> None:
    """Somebody between the two, who cannot prove anything, answers with what came."""
    said = talk(*pair())
    connecting, accepting = pair()
    for line in (said[0], said[2]):
        proof = accepting.receive(line[:-1])
    assert proof.startswith(b"proof ")
    answer = accepting.receive(proof[:-1].replace(b"proof", b"welcome", 1))
    assert answer == b"refused the two nodes do not have the same secret\n"
    assert accepting.peer is None
    connecting.begin()
    prove = connecting.receive(said[1][:-1])
    back = b"proof" + prove[:-1].removeprefix(b"prove") + b" %016x b:3014" % 7
    assert connecting.receive(back) == b"refused the two nodes do not have the same secret\n"


def test_each_side_takes_its_own_words_only() -> None:
    """A right proof under the wrong word is none."""
    for place, word in ((2, b"proof"), (3, b"welcome"), (4, b"proof")):
        said = talk(*pair())
        connecting, accepting = pair()
        for number, line in enumerate(said[:place]):
            (connecting if number % 2 else accepting).receive(line[:-1])
        to: Connecting | Accepting = connecting if place % 2 else accepting
        line = said[place][:-1].replace(said[place].split()[0], word, 1)
        assert to.receive(line) == b"refused that is no line of the handshake\n"


def test_every_byte_is_as_the_module_says() -> None:
    """Another program could be written by its header, and older nodes go on understanding it."""
    said = talk(*pair())
    chance = random.Random(1)
    one = b"peer 1 000000000000000a " + chance.randbytes(16).hex().encode()
    other = b"peer 1 000000000000000b " + chance.randbytes(16).hex().encode()

    def proof(word: bytes, told: bytes) -> bytes:
        text = word + b"\n" + one + b"\n" + other + b"\n" + told
        return hmac.new(KEY, text, "sha256").hexdigest().encode()

    ours, theirs = b"0000000000000007 a:3014", b"0000000000000007 b:3014"
    assert said == [
        one + b"\n",
        other + b"\n",
        b"prove " + proof(b"prove", b"") + b"\n",
        b"proof " + proof(b"proof", theirs) + b" " + theirs + b"\n",
        b"welcome " + proof(b"welcome", ours) + b" " + ours + b"\n",
    ]


def test_what_is_told_with_a_proof_cannot_be_changed() -> None:
    for place, changed in ((4, b"a:3015"), (3, b"b:3015")):
        connecting, accepting = pair()
        said = talk(connecting, accepting)
        connecting, accepting = pair()
        for number, line in enumerate(said[: place + 1]):
            to: Connecting | Accepting = connecting if number % 2 else accepting
            if number == place:
                line = line.replace(b"a:3014", changed).replace(b"b:3014", changed)
            if number == 0:
                connecting.begin()
            answer = to.receive(line[:-1])
        assert answer == b"refused the two nodes do not have the same secret\n"


def test_after_the_end_nothing_is_taken() -> None:
    connecting, accepting = pair()
    talk(connecting, accepting)
    for side in (connecting, accepting):
        with pytest.raises(ValueError, match="over"):
            side.receive(b"peer")


@given(st.integers(0, 4), st.data())
def test_a_line_that_is_not_as_it_was_sent_ends_it(place: int, data: st.DataObject) -> None:
    said = talk(*pair())
    connecting, accepting = pair()
    line = said[place][:-1]
    spoiled = bytearray(line)
    how = data.draw(st.sampled_from(["cut", "flip", "more"]))
    at = data.draw(st.integers(0, len(line) - 1))
    if how == "cut":
        del spoiled[at:]
    elif how == "flip":
        spoiled[at] ^= data.draw(st.integers(1, 255))
    else:
        spoiled += data.draw(st.binary(min_size=1, max_size=LONGEST))
    sides = [accepting, connecting]
    for number, one in enumerate(said[:place]):
        sides[number % 2].receive(one[:-1])
    to = sides[place % 2]
    answer = to.receive(bytes(spoiled))
    if place == 0 and to.stage is Stage.GREETED:
        # Another node, or another nonce: that is found out with the first proof.
        answer = accepting.receive(connecting.receive(answer[:-1])[:-1])
    elif place == 1 and to.stage is Stage.GREETED:
        answer = accepting.receive(answer[:-1])
        to = accepting
    assert to.stage is Stage.REFUSED
    assert answer == b"" or answer.startswith(b"refused ")
    assert to.peer is None


@given(st.binary(max_size=2 * LONGEST))
def test_rubbish_is_refused(line: bytes) -> None:
    connecting, accepting = pair()
    connecting.begin()
    for side in (connecting, accepting):
        answer = side.receive(line)
        assert side.stage is Stage.REFUSED
        assert answer == b"" or answer.endswith(b"\n")
        assert len(answer) < LONGEST


@pytest.mark.parametrize(
    "line",
    [b"refused x\x1b[31m", b"refused x\r", b"refused " + b"x" * 201, b"peer 2" + b" x" * LONGEST],
)
def test_what_a_stranger_says_is_short_and_plain_or_not_repeated(line: bytes) -> None:
    for side in pair():
        assert side.receive(line) == b"refused that is no line of the handshake\n"
        assert side.refusal == "that is no line of the handshake"


def test_no_secret_is_in_what_can_be_printed() -> None:
    connecting, accepting = pair()
    talk(connecting, accepting)
    for one in (connecting, accepting, connecting.peer):
        assert KEY.decode() not in repr(one)


def test_the_key_costs_something_and_hides_the_secret() -> None:
    assert len(peer_key(b"secret")) == 32
    assert peer_key(b"secret") != peer_key(b"secres")
    # Pinned: nodes with another cost or salt would not understand each other.
    assert (
        peer_key(b"secret").hex()
        == "24a45c5af317c5fc2831fa791c264984e5274e7dccb012ad520ff58f44e1c479"
    )
