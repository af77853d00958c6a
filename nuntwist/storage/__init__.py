"""Snapshots: they shorten recovery; the log is the truth.

``format`` and ``manifest`` are how a snapshot is laid down as bytes; ``memory``, ``disk`` and
``s3`` keep them, ``split`` reads one and writes another, ``choose`` takes what is asked for.
"""
