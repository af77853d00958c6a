"""The database itself: a deterministic state machine fed by one log of operations.

Nothing here knows a socket, a file or a clock: what comes from outside (time, a log, storage,
a way to be called later) is given to :class:`~nuntwist.core.pipeline.Pipeline`, which is the
road every command travels.
"""
