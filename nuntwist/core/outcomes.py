"""Replies on their way from the primary to the secondary that forwarded the commands.

A reply is written as its messages, ``+LENGTH:TEXT`` each, and then ``.`` where it went well or
``-LENGTH:TEXT`` where it is an error; lengths are decimal. So a hundred writes that went well
are a hundred bytes, and the whole is text, which may stand in a key's value.
"""

from __future__ import annotations

from nuntwist.language.replies import OK, Reply

_OK, _MESSAGE, _ERROR = b".+-"


class OutcomeEncoding:
    """As the module says; for clients that stand for one at another node. These watch nothing."""

    ok = b"."

    def message_head(self, length: int) -> bytes:
        """The head of a message."""
        return b"+%d:" % length

    def reply(self, reply: Reply) -> bytes:
        """A whole reply."""
        parts = [b"+%d:%b" % (len(message), message) for message in reply.messages]
        closing = self.ok if reply.error is None else b"-%d:%b" % (len(reply.error), reply.error)
        return b"".join([*parts, closing])

    def changed(self, key: bytes, value: bytes, version: int) -> bytes:
        """Nobody is told."""
        return b""

    def removed(self, key: bytes) -> bytes:
        """Nobody is told."""
        return b""


OUTCOMES = OutcomeEncoding()


def encode_replies(replies: list[Reply]) -> bytes:
    """Write replies, in order."""
    return b"".join([b"." if reply is OK else OUTCOMES.reply(reply) for reply in replies])


def read_replies(data: bytes) -> list[Reply]:
    """Read what :func:`encode_replies` has written.

    :raise ValueError: it is something else.
    """
    replies: list[Reply] = []
    messages: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        kind = data[at]
        at += 1
        if kind == _OK:
            replies.append(Reply(tuple(messages)) if messages else OK)
            messages = []
            continue
        if kind not in (_MESSAGE, _ERROR):
            raise ValueError(f"{kind} begins nothing")
        text, at = _text(data, at)
        if kind == _MESSAGE:
            messages.append(text)
        else:
            replies.append(Reply(tuple(messages), text))
            messages = []
    if messages:
        raise ValueError("the last reply has no end")
    return replies


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    colon = data.find(b":", at, at + 11)
    digits = data[at : max(at, colon)]
    if not digits.isdigit():
        raise ValueError("a text has no length")
    start = colon + 1
    stop = start + int(digits)
    if stop > len(data):
        raise ValueError("a text is cut short")
    return data[start:stop], stop
