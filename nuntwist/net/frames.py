"""Reads small WebSocket frames by the chunk. Pure.

A general frame parser in Python costs tens of microseconds a frame, and nearly every frame a
client sends is the same kind: complete, final, text, masked, with fewer than 126 bytes. This
takes a run of such frames from the front of a chunk with one pass over the heads and one XOR
of two big integers for all payloads together. It keeps every check of RFC 6455 that concerns
them (FIN, RSV, opcode, MASK, length; UTF-8 in ``split``); at the first frame that is anything
else it stops, and the general parser (Autobahn) takes that one.
"""

from __future__ import annotations

HEAD = 6
"""Bytes before the payload: two of head, four of mask."""
_FINAL_TEXT = 0x81
_MASKED = 0x80
_LONGEST = 125


def small_texts(data: bytes) -> tuple[list[bytes], int]:
    """Take small text frames from the front.

    :return: their unmasked payloads, and how many bytes of ``data`` they took.
    """
    at, end = 0, len(data)
    masked: list[bytes] = []
    masks: list[bytes] = []
    sizes: list[int] = []
    while at + HEAD <= end and data[at] == _FINAL_TEXT:
        size = data[at + 1] - _MASKED
        start = at + HEAD
        stop = start + size
        if size < 0 or size > _LONGEST or stop > end:
            break
        masked.append(data[start:stop])
        masks.append((data[at + 2 : start] * (size // 4 + 1))[:size])
        sizes.append(size)
        at = stop
    if not sizes:
        return [], 0
    if len(sizes) == 1:
        return [_xor(masked[0], masks[0])], at
    plain = _xor(b"".join(masked), b"".join(masks))
    texts = []
    start = 0
    for size in sizes:
        texts.append(plain[start : start + size])
        start += size
    return texts, at


def _xor(left: bytes, right: bytes) -> bytes:
    number = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
    return number.to_bytes(len(left), "little")


def frame_size(data: bytes) -> int | None:
    """How many bytes the frame at the front takes, head and all.

    :return: None where not even its head is complete.
    """
    if len(data) < 2:
        return None
    size = data[1] & 0x7F
    head = HEAD if data[1] & _MASKED else 2
    if size == 126:
        head += 2
        size = int.from_bytes(data[2:4], "big")
    elif size == 127:
        head += 8
        size = int.from_bytes(data[2:10], "big")
    return head + size if len(data) >= head else None
