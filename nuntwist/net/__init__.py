"""Transports: they translate between sockets and the core, and know nothing of commands."""
