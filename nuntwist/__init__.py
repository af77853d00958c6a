"""nuntwist: a real-time, replicated, in-memory key-value database on Twisted."""

__version__ = "0.1.0"
