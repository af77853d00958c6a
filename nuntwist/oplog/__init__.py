"""The operation log: the record format, and the logs that keep records.

``record`` is the format, in memory, on disk and on the wire between nodes; ``memory`` keeps
operations in a list, ``segments`` keeps records in files, which ``reader`` reads back.
"""
