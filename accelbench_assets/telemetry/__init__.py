"""Side channels: what the engine and the accelerators say of themselves while the load runs, at 1 Hz.

Belongs here: reading and parsing them (``names``, ``prometheus``, ``accelerators``, ``sources``), the thread that does
so beside a load (``sampler``), and the columns of a step that come from them (``series``, ``reduce``); server-reported
headers beside our own figures (``headers``); the verdicts on all that (``rules``). Does not belong here: anything that
decides a request's latency (``loadgen``), comparing the engine's counters with ours (``bench.engine_counters``),
writing tables (``lake``).

A side channel never decides whether a run succeeds: a reading that fails is a gap, counted and named, and a column
without readings is null.
"""
