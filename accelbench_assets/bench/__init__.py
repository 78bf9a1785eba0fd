"""One benchmark from attempt to verdict: orchestration, metrics, quantiles with honest intervals, validity,
records.

Belongs here: the use case ``run_benchmark``, everything computed from samples, the ``runs`` record, charts of
a run. Does not belong here: starting engines (``launch``, ``engines``), sending load (``loadgen``), storage
(``lake``), Dagster (``defs``).
"""
