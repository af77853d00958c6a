"""The kinds of messages between nodes, and what the body of each holds.

The body begins with the number of the epoch (u64). What follows it, by kind:

====  ===========  ==========================================================================
 1    Ask          released u64, insists u8, rank
 2    Would        yes u8
 3    Stand        released u64, rank
 4    Vote
 5    Alive        rank
 6    Stale
 7    Victory      sent f64
 8    Beat         sent f64
 9    Obeyed       sent f64, position
10    Release      successor u64
16    Have         position, count u16, then for each epoch: number u64, node u64, first u64
17    Cut          index u64
18    Records      position, committed u64, then the records to the end
19    Applied      index u64, durable u64
20    Refused      position
21    Idle
22    CopyWanted   copy u64, piece u64
23    CopyBegins   copy u64, position, stamp u64, then for each database: id u64, last index u64,
                   lengths of name and strategy u32 each, name, strategy
24    CopyPiece    copy u64, piece u64, then the entries to the end (see the module of copies)
25    CopyEnds     copy u64, pieces u64, entries u64, checksum u32
26    CopyTaken    copy u64, piece u64
27    CopyLost     copy u64
28    Checked      index u64, sum u64
29    Differs      index u64
30    Forward      lane u8, request u64, then for each command: flags u8 (1: it has a database, 2: a
                   user, 4: admin, 8: a list of its own, 16: an end), database u64, lengths of user,
                   text and list u32 each, user, text, list, and the end f64 where it has one
31    Outcome      lane u8, request u64, index u64, then the replies to the end
32    Behind       lane u8, request u64, seen u64
34    Offer        first u64, then the records to the end
35    Offered      last u64, taken u64, left u64
40    Hello        set u64, five u8 flags, since i64, position
41    Joining      set u64
42    Admitted     the members, as they are kept, to the end
43    Whole
44    Invited      set u64
45    Confirm      question u64
46    Confirmed    question u64, index u64
47    Count        question u64, index u64, replicas u16, milliseconds u32
48    Counted      question u64
49    Arbiters     for each arbiter: number u64, database u64, flags u8 (1: it has a user, 2: admin
                   rights, 4: a list of its own), lengths of user and list u32 each, user, list
50    Assigned     index u64, database u64, arbiter u64, then to the end the conflict, or the key
                   where the arbiter is 0
====  ===========  ==========================================================================

A position is the epoch's number and node and an index (u64 each); a rank is a position, a
seniority (i64) and a node (u64).

How the bodies are written is :mod:`nuntwist.cluster.frame_forms`, what is around them
:mod:`nuntwist.cluster.frames`.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from nuntwist.cluster.arbiters import Arbiters, Assigned
from nuntwist.cluster.ballots import (
    Alive,
    Ask,
    Ballot,
    Beat,
    Obeyed,
    Release,
    Stale,
    Stand,
    Victory,
    Vote,
    Would,
)
from nuntwist.cluster.checks import Checked, Differs
from nuntwist.cluster.confirming import Confirm, Confirmed
from nuntwist.cluster.copies import (
    CopyBegins,
    CopyEnds,
    Copying,
    CopyLost,
    CopyPiece,
    CopyTaken,
    CopyWanted,
)
from nuntwist.cluster.counting import Count, Counted
from nuntwist.cluster.forwards import Behind, Forward, Forwarding, Outcome
from nuntwist.cluster.frame_forms import (
    POSITION,
    RANK,
    ArbitersForm,
    CopyBeginsForm,
    FixedForm,
    ForwardForm,
    HaveForm,
    TailForm,
    flag,
    make_position,
    make_rank,
    nothing,
    numbers_of,
    rank_numbers,
)
from nuntwist.cluster.greeting import Admitted, Greeting, Hello, Invited, Joining, Whole
from nuntwist.cluster.offers import Offer, Offered
from nuntwist.cluster.stream import Applied, Cut, Have, Idle, Records, Refused

Message: TypeAlias = (
    Ballot
    | Have
    | Cut
    | Records
    | Applied
    | Refused
    | Idle
    | Forwarding
    | Greeting
    | Offer
    | Offered
    | Confirm
    | Confirmed
    | Count
    | Counted
    | Arbiters
    | Assigned
    | Checked
    | Differs
    | Copying
)


KINDS: Final[dict[int, tuple[type, Any]]] = {
    1: (
        Ask,
        FixedForm(
            "QB" + RANK,
            lambda m: (m.released, m.insists, *rank_numbers(m.rank)),
            lambda n, released, insists, *rank: Ask(n, make_rank(*rank), flag(insists), released),
        ),
    ),
    2: (Would, FixedForm("B", lambda m: (m.yes,), lambda n, yes: Would(n, flag(yes)))),
    3: (
        Stand,
        FixedForm(
            "Q" + RANK,
            lambda m: (m.released, *rank_numbers(m.rank)),
            lambda n, released, *rank: Stand(n, make_rank(*rank), released),
        ),
    ),
    4: (Vote, FixedForm("", nothing, Vote)),
    5: (
        Alive,
        FixedForm(
            RANK, lambda m: rank_numbers(m.rank), lambda n, *rank: Alive(n, make_rank(*rank))
        ),
    ),
    6: (Stale, FixedForm("", nothing, Stale)),
    7: (Victory, FixedForm("d", lambda m: (m.sent,), Victory)),
    8: (Beat, FixedForm("d", lambda m: (m.sent,), Beat)),
    9: (
        Obeyed,
        FixedForm(
            "d" + POSITION,
            lambda m: (m.sent, *numbers_of(m.position)),
            lambda n, sent, *position: Obeyed(n, sent, make_position(*position)),
        ),
    ),
    10: (Release, FixedForm("Q", lambda m: (m.successor,), Release)),
    16: (Have, HaveForm()),
    17: (Cut, FixedForm("Q", lambda m: (m.index,), Cut)),
    18: (
        Records,
        TailForm(
            POSITION + "Q",
            "records",
            lambda m: (*numbers_of(m.before), m.committed, m.data),
            lambda n, number, node, index, committed, data: Records(
                n, make_position(number, node, index), committed, data
            ),
        ),
    ),
    19: (Applied, FixedForm("QQ", lambda m: (m.index, m.durable), Applied)),
    20: (
        Refused,
        FixedForm(
            POSITION,
            lambda m: numbers_of(m.position),
            lambda n, *position: Refused(n, make_position(*position)),
        ),
    ),
    21: (Idle, FixedForm("", nothing, Idle)),
    22: (CopyWanted, FixedForm("QQ", lambda m: (m.copy_id, m.next_piece), CopyWanted)),
    23: (CopyBegins, CopyBeginsForm()),
    24: (
        CopyPiece,
        TailForm("QQ", "entries", lambda m: (m.copy_id, m.piece, m.data), CopyPiece),
    ),
    25: (
        CopyEnds,
        FixedForm("QQQI", lambda m: (m.copy_id, m.pieces, m.entries, m.checksum), CopyEnds),
    ),
    26: (CopyTaken, FixedForm("QQ", lambda m: (m.copy_id, m.piece), CopyTaken)),
    27: (CopyLost, FixedForm("Q", lambda m: (m.copy_id,), CopyLost)),
    28: (Checked, FixedForm("QQ", lambda m: (m.index, m.sum), Checked)),
    29: (Differs, FixedForm("Q", lambda m: (m.index,), Differs)),
    30: (Forward, ForwardForm()),
    31: (
        Outcome,
        TailForm("BQQ", "replies", lambda m: (m.lane, m.request, m.index, m.replies), Outcome),
    ),
    32: (Behind, FixedForm("BQQ", lambda m: (m.lane, m.request, m.seen), Behind)),
    34: (Offer, TailForm("Q", "records", lambda m: (m.first, m.data), Offer)),
    35: (
        Offered,
        FixedForm("QQQ", lambda m: (m.last, m.taken, m.left), Offered),
    ),
    40: (
        Hello,
        FixedForm(
            "Q5Bq" + POSITION,
            lambda m: (
                m.set_id,
                m.formed,
                m.whole,
                m.holds_data,
                m.serves,
                m.member,
                m.since,
                *numbers_of(m.position),
            ),
            lambda n, set_id, formed, whole, data, serves, member, since, *position: Hello(
                n,
                set_id,
                flag(formed),
                flag(whole),
                flag(data),
                flag(serves),
                flag(member),
                since,
                make_position(*position),
            ),
        ),
    ),
    41: (Joining, FixedForm("Q", lambda m: (m.set_id,), Joining)),
    42: (Admitted, TailForm("", "members", lambda m: (m.members,), Admitted)),
    43: (Whole, FixedForm("", nothing, Whole)),
    44: (Invited, FixedForm("Q", lambda m: (m.set_id,), Invited)),
    45: (Confirm, FixedForm("Q", lambda m: (m.question,), Confirm)),
    46: (Confirmed, FixedForm("QQ", lambda m: (m.question, m.index), Confirmed)),
    47: (
        Count,
        FixedForm("QQHI", lambda m: (m.question, m.index, m.replicas, m.milliseconds), Count),
    ),
    48: (Counted, FixedForm("Q", lambda m: (m.question,), Counted)),
    49: (Arbiters, ArbitersForm()),
    50: (
        Assigned,
        TailForm("QQQ", "key", lambda m: (m.index, m.database, m.arbiter, m.key), Assigned),
    ),
}
"""The class and the form of each kind."""
