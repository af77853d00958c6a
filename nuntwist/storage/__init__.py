"""Snapshots: they shorten recovery; the log is the truth.

``format`` is how a snapshot is laid down as bytes, ``memory`` and ``disk`` keep them.
"""
