"""The hot road: ``get KEY`` and ``set KEY VALUE`` on plain keys, by the run.

Everything here could be done by the general road (parse, authorise, handler, one command at a
time), and a test runs both side by side on random conversations and compares every byte. It
is here because those two commands are nearly all of the traffic, and each function call or
attribute look-up left out of them is worth 2 to 5 % of a node's throughput. So what is the
same for a whole chunk (the session, the database, the watchers, the counters) is looked up
once, and the loops below hold only what differs from line to line.

It takes a run of lines only where the whole of these hold, and stops before the first line
that is anything else, which the general road then takes:

- the chunk is plain (see :class:`nuntwist.language.framing.Chunk`), so a line needs no
  cleaning and its key is no ``$`` key;
- the client may do everything with every plain key of its database, and that is not
  ``$admin``, where some keys are the server's;
- writes are not refused (reads go on where they are), and the database has room for all of them,
  where it has a quota; no key is longer than it may be, nor a value;
- no write concern or read concern rules but the node's own;
- the key is not in conflict resolution, no view of the database is kept, and adding the key
  is not watched by a listing.

A chunk of one line has a lane of its own, ``single``, under the same conditions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuntwist.core.database import MASK
from nuntwist.language.replies import EMPTY, FRAMES, LINES
from nuntwist.values import ADMIN_ID, INDEX, KEY, SET, VALUE, VERSION

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.database import Database
    from nuntwist.core.pipeline import Pipeline

GET = b"get "
SET_WORD = b"set"
(SPACE,) = b" "

LONGEST_SMALL_FRAME = 125 - len(b"value \n")
"""The longest value whose ``value`` message fits a frame with a head of two bytes."""

_LINE_VALUE = b"value %b\nok \n"
_FRAME_VALUE = b"\x81%cvalue %b\n\x81\x04ok \n"


def run(pipeline: Pipeline, client: Client, lines: list[bytes], at: int, stop: int) -> int:
    """Run the commands ``lines[at:stop]`` as far as the hot road goes.

    :return: the place of the first line it did not take.
    """
    database = client.database
    if database is None or database.number == ADMIN_ID:
        return at
    if (client.user is not None or database.permissions) and not client.unrestricted():
        return at
    if client.careful:
        return at
    first = at
    while at < stop and client.room >= 0:
        start = at
        if lines[at][:4] == GET:
            at = _gets(pipeline, client, database, lines, at, stop)
        elif pipeline.journal.refusal is None:
            at = _sets(pipeline, client, database, lines, at, stop)
        if at == start:
            break
    if at > first and not client.dirty:
        client.dirty = True
        pipeline.dirty.append(client)
    return at


def single(pipeline: Pipeline, client: Client, lines: list[bytes]) -> bool:
    """Run a chunk of one plain line, of a client that nothing is in the way of.

    Who waits for each answer sends chunks of one; there is nothing to share then, and setting
    up the loops below would cost more than the command. A read that tells of nothing new is
    answered at once, without a batch.

    :return: whether it was taken; if not, nothing has happened.
    """
    database, (line,) = client.database, lines
    if database is None or database.number == ADMIN_ID:
        return False
    if (client.user is not None or database.permissions) and not client.unrestricted():
        return False
    if client.careful:
        return False
    if 0 < pipeline.limits.value < len(line):
        return False
    if line[:4] == GET:
        return _get(pipeline, client, database, line[4:])
    return _set(pipeline, client, database, lines)


def _get(pipeline: Pipeline, client: Client, database: Database, key: bytes) -> bool:
    op = database.shards[hash(key) & MASK].get(key)
    if op is None:
        if not key or SPACE in key:
            return False
        found = EMPTY
    else:
        value, journal = op[VALUE], pipeline.journal
        if journal.index > journal.revealed and op[INDEX] > journal.revealed:
            return False
        found = EMPTY if value is None else value
    if client.dirty or not client.direct:
        return False
    encoding = client.encoding
    if encoding is LINES:
        client.write(_LINE_VALUE % found)
    elif encoding is FRAMES and len(found) <= LONGEST_SMALL_FRAME:
        client.write(_FRAME_VALUE % (len(found) + 7, found))
    else:
        return False
    return True


def _set(pipeline: Pipeline, client: Client, database: Database, lines: list[bytes]) -> bool:
    parts = lines[0].split(b" ", 2)
    if len(parts) != 3 or parts[0] != SET_WORD:
        return False
    _, key, value = parts
    journal = pipeline.journal
    if not key or key in database.watchers or database.scans or journal.refusal is not None:
        return False
    usage = database.usage
    if usage is not None and not usage.fits(lines, 0, 1):
        return False
    shard = database.shards[hash(key) & MASK]
    old = shard.get(key)
    version = 0
    if old is not None:
        version, key = old[VERSION] + 1, old[KEY]
    if version <= 0:
        if version < 0 or len(key) > pipeline.limits.key:
            return False
        # It is new, or was removed a moment ago.
        if usage is not None and not usage.free_keys():
            return False
    ops, stamps = journal.ops, journal.stamps
    stamps.last = stamp = (stamps.last if ops else stamps.catch_up()) + 1
    journal.index = database.last_index = client.needed = index = journal.index + 1
    shard[key] = op = (value, version, index, stamp, SET, database.number, key)
    if usage is not None:
        usage.note(old, op)
    ops.append(op)
    journal.replaced.append(old)
    client.out.append(client.encoding.ok)
    client.chunks.append((lines, 0, 1))
    if not client.dirty:
        client.dirty = True
        pipeline.dirty.append(client)
    return True


def _gets(
    pipeline: Pipeline, client: Client, database: Database, lines: list[bytes], at: int, stop: int
) -> int:
    encoding = client.encoding
    if encoding is LINES:
        return _gets_as_lines(pipeline, client, database, lines, at, stop)
    if encoding is not FRAMES:
        return at
    # Where the log has everything, the index of an entry need not be fetched from memory.
    fresh = pipeline.journal.index > pipeline.journal.revealed
    shards = database.shards
    add, needed, room = client.out.append, client.needed, client.room
    while at < stop and room >= 0:
        line = lines[at]
        if line[:4] != GET:
            break
        key = line[4:]
        op = shards[hash(key) & MASK].get(key)
        if op is None:
            if not key or SPACE in key:
                break
            found = EMPTY
        else:
            value = op[VALUE]
            found = EMPTY if value is None else value
            if fresh and op[INDEX] > needed:
                needed = op[INDEX]
        size = len(found)
        room -= size
        if size <= LONGEST_SMALL_FRAME:
            add(_FRAME_VALUE % (size + 7, found))
        else:
            add(encoding.message_head(size + 7) + b"value %b\n" % found + encoding.ok)
        at += 1
    client.needed, client.room = needed, room
    return at


def _gets_as_lines(
    pipeline: Pipeline, client: Client, database: Database, lines: list[bytes], at: int, stop: int
) -> int:
    """As ``_gets``; what stands between two values is always the same, so the answers are put
    together at once, for a fifth of what making each of them costs."""
    fresh = pipeline.journal.index > pipeline.journal.revealed
    shards, needed, room = database.shards, client.needed, client.room
    values: list[bytes] = []
    add = values.append
    for line in lines[at:stop]:
        if line[:4] != GET:
            break
        key = line[4:]
        op = shards[hash(key) & MASK].get(key)
        if op is None:
            if not key or SPACE in key:
                break
            value: bytes | None = EMPTY
        else:
            value = op[VALUE]
            if fresh and op[INDEX] > needed:
                needed = op[INDEX]
        if value is None:
            value = EMPTY
        add(value)
        room -= len(value)
        if room < 0:
            break
    if values:
        client.out.append(b"value %b\nok \n" % b"\nok \nvalue ".join(values))
        client.needed, client.room = needed, room
    return at + len(values)


def _sets(
    pipeline: Pipeline, client: Client, database: Database, lines: list[bytes], at: int, stop: int
) -> int:
    journal, shards, watchers = pipeline.journal, database.shards, database.watchers
    if database.scans and any(scan.of_values for scan in database.scans):
        return at
    usage, longest = database.usage, pipeline.limits.key
    new, free = 0, stop
    if pipeline.limits.value:
        stop = _before_long(lines, at, stop, pipeline.limits.value)
    if usage is not None:
        free, stop = usage.free_keys(), usage.fits(lines, at, stop)
    number, listed = database.number, bool(database.scans)
    add_op, add_replaced = journal.ops.append, journal.replaced.append
    add, ok, room = client.out.append, client.encoding.ok, client.room
    index = before = journal.index
    stamp, answered = 0, at
    while at < stop and room >= 0:
        parts = lines[at].split(b" ", 2)
        if len(parts) != 3 or parts[0] != SET_WORD:
            break
        _, key, value = parts
        shard = shards[hash(key) & MASK]
        old = shard.get(key)
        if old is None:
            version = 0
        else:
            # One key object for the dictionary and the entry: less memory, fewer cache misses.
            version, key = old[VERSION] + 1, old[KEY]
        if not key:
            break
        if version <= 0:
            if version < 0 or listed:
                break
            # It is new, or was removed a moment ago.
            new += 1
            if new > free or len(key) > longest:
                break
        index += 1
        stamp = (stamp or journal.stamps.catch_up()) + 1
        op = (value, version, index, stamp, SET, number, key)
        shard[key] = op
        add_op(op)
        add_replaced(old)
        if key in watchers:
            # The client itself may be one of them: first what it was to hear before that.
            add(ok * (at - answered))
            answered = at
            pipeline.notify(database, op)
            room -= len(value)
        at += 1
    if index > before:
        add(ok * (at - answered))
        journal.index = database.last_index = client.needed = index
        journal.stamps.last = stamp
        if usage is not None:
            made = index - before
            usage.note_all(journal.replaced[-made:], journal.ops[-made:])
    client.room = room
    return at


def _before_long(lines: list[bytes], at: int, stop: int, largest: int) -> int:
    """The place of the first line in which a value may be longer than it may be, or that is no
    ``set``; looked for here, as in the loop it would cost everybody 5 %."""
    for place in range(at, stop):
        line = lines[place]
        if len(line) > largest or line[:4] != b"set ":
            return place
    return stop
