"""Every error that one part of nuntwist raises for another to handle.

``CommandError`` and its kin are answers to a client: their text goes out on the wire as it
stands.  ``ConfigError`` and ``StartError`` are answers to an operator: one sentence, exit
status 1.  Storage errors say how much is known about a write that was not acknowledged.
"""

from __future__ import annotations


class NuntwistError(Exception):
    """The root of all errors defined here."""


class CommandError(NuntwistError):
    """A command is refused; nothing has changed.

    :param message: the MSG of the closing line ``error MSG \\n``, UTF-8.
    """

    def __init__(self, message: bytes) -> None:
        super().__init__(message.decode("utf-8", "replace"))
        self.message = message


class StorageUnavailable(NuntwistError):
    """The log or a snapshot could not be written and nothing of it was kept.

    What was refused is not on the disk: whoever tried may say so to the writer.
    """


class OutcomeUnknown(NuntwistError):
    """A write failed and could not be taken back: it may or may not survive a restart."""


class TakenBack(OutcomeUnknown):
    """A write was cut off the log on purpose, because the rest of the set has it not; whoever has
    cut it takes back what it has changed."""


class NeedsCopy(NuntwistError):
    """What a node has more than its set cannot be taken back; nothing has changed. It needs a
    copy of all."""


class CorruptData(NuntwistError):
    """A file does not hold what its checksums say; nothing of it past ``offset`` was used.

    :param path: the file's name.
    :param offset: where in it, in bytes.
    :param reason: what is wrong, in words.
    """

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path} is damaged at byte {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


class ConfigError(NuntwistError):
    """A setting is wrong; the text is one sentence for the operator."""


class StartError(NuntwistError):
    """The node cannot start; the text is one sentence for the operator."""
