"""Whole replica sets on one clock, and what clients may expect of them.

- :mod:`nuntwist.simulation.history` records what clients asked and were answered;
- :mod:`nuntwist.simulation.one_key` says what a key answers when one asks after the other;
- :mod:`nuntwist.simulation.linearizability` tells whether a history fits that.
"""
