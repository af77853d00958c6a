"""The hot road: ``get KEY`` and ``set KEY VALUE`` on plain keys, by the run.

Everything here could be done by the general road (parse, authorise, handler, one command at a
time), and a test runs both side by side on random conversations and compares every byte. It
is here because those two commands are nearly all of the traffic, and each function call or
attribute look-up left out of them is worth 2 to 5 % of a node's throughput. So what is the
same for a whole chunk (the session, the database, the watchers, the counters) is looked up
once, and the loop below holds only what differs from line to line.

It takes a run of lines only where the whole of these hold, and stops before the first line
that is anything else, which the general road then takes:

- the chunk is plain (see :class:`nuntwist.language.framing.Chunk`), so a line needs no
  cleaning and its key is no ``$`` key;
- the client may do everything with every plain key of its database, and that is not
  ``$admin``, where some keys are the server's;
- the key is not in conflict resolution, and adding it is not watched by a listing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core.database import MASK
from nuntwist.language.replies import EMPTY, FRAMES, LINES
from nuntwist.values import ADMIN_ID, INDEX, SET, VALUE, VERSION

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.pipeline import Pipeline

GET_WORD = b"get"
SET_WORD = b"set"

LONGEST_SMALL_FRAME = 125 - len(b"value \n")
"""The longest value whose ``value`` message fits a frame with a head of two bytes."""

_LINE_VALUE = b"value %b\nok \n"
_FRAME_VALUE = b"\x81%cvalue %b\n\x81\x04ok \n"


def run(pipeline: Pipeline, client: Client, lines: list[bytes], at: int, stop: int) -> int:
    """Run the commands ``lines[at:stop]`` as far as the hot road goes.

    :return: the place of the first line it did not take.
    """
    database, journal = client.database, pipeline.journal
    if database is None or journal.refusal is not None or database.number == ADMIN_ID:
        return at
    if (client.user is not None or database.permissions) and not client.unrestricted():
        return at
    encoding = client.encoding
    framed = encoding is FRAMES
    if not framed and encoding is not LINES:
        return at
    number, shards, watchers = database.number, database.shards, database.watchers
    listed = bool(database.scans)
    add_op, add_replaced = journal.ops.append, journal.replaced.append
    add, ok = client.out.append, encoding.ok
    first_index = index = journal.index
    stamp = 0
    needed, room = client.needed, client.room
    for place in range(at, stop):
        parts = lines[place].split(b" ", 2)
        count = len(parts)
        if count == 3 and parts[0] == SET_WORD:
            _, key, value = parts
            shard = shards[hash(key) & MASK]
            old = shard.get(key)
            version = 0 if old is None else old[VERSION] + 1
            if version < 0 or not key or (version == 0 and listed):
                break
            index += 1
            stamp = (stamp or journal.stamps.catch_up()) + 1
            op = (value, version, index, stamp, SET, number, key)
            shard[key] = op
            add_op(op)
            add_replaced(old)
            if key in watchers:
                pipeline.notify(database, op)
                room -= len(value)
            add(ok)
            if room < 0:
                place += 1
                break
        elif count == 2 and parts[0] == GET_WORD:
            key = parts[1]
            if not key:
                break
            old = shards[hash(key) & MASK].get(key)
            if old is None:
                found = EMPTY
            else:
                found = old[VALUE] or (b"" if old[VALUE] is not None else EMPTY)
                if old[INDEX] > needed:
                    needed = old[INDEX]
            size = len(found)
            room -= size
            if not framed:
                add(_LINE_VALUE % found)
            elif size <= LONGEST_SMALL_FRAME:
                add(_FRAME_VALUE % (size + 7, found))
            else:
                add(encoding.message_head(size + 7) + b"value %b\n" % found)
                add(ok)
            if room < 0:
                place += 1
                break
        else:
            break
    else:
        place = stop
    if index > first_index:
        journal.index = database.last_index = needed = index
        journal.stamps.last = stamp
    client.needed, client.room = needed, room
    if place > at and not client.dirty:
        client.dirty = True
        pipeline.dirty.append(client)
    return place
