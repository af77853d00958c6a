"""Being one of a set: who a node is, and who is primary."""
