"""Whole replica sets on one clock, and what clients may expect of them.

- :mod:`nuntwist.simulation.history` records what clients asked and were answered;
- :mod:`nuntwist.simulation.one_key` says what a key answers when one asks after the other;
- :mod:`nuntwist.simulation.linearizability` tells whether a history fits that;
- :mod:`nuntwist.simulation.cluster` runs a set with its clients, from a seed;
- :mod:`nuntwist.simulation.adversary` makes the faults, and
  :mod:`nuntwist.simulation.invariants` sees what they lead to.

``python -m nuntwist.simulation`` runs seeds, and replays one.
"""
