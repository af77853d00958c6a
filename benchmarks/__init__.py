"""The benchmark suite: a node beside Redis, on the same machine and in the same run.

``python -m benchmarks`` (``make bench``) starts both as processes of their own, drives them
in turn with one load generator and prints what each did, the ratio and the figure to reach.
Machines differ by a factor of three from one to the next, so only ratios of one run count.

How it hangs together::

    wire      commands and answers of each protocol, as bytes       (pure)
    figures   percentiles, rows, the table of figures to reach      (pure)
    report    the table, the JSON file                              (pure, but for facts())
    load      the generator: channels, drive(), deliver()
    load.c    its two loops in C, compiled at run time where a compiler is found
    servers   the node and Redis as child processes
    throughput, fanout, memory, million    the measures
    compare   an earlier revision beside this one
    plot      the ratios against the figures to reach, as a PNG
"""
