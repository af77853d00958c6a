"""Tells twistd that ``twistd nundb`` exists.

This directory and the one above it must stay without ``__init__.py``: Twisted then takes it
as an addition to its own ``twisted.plugins`` package.
"""

from twisted.application.service import ServiceMaker

nundb = ServiceMaker(
    "nundb", "nuntwist.tap", "A real-time, replicated, in-memory key-value database.", "nundb"
)
