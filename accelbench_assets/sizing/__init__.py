"""Sizing: what fits where, how fast it may be, and what to rent for it.

Belongs here: arithmetic over the facts of ``partitions`` (weights, KV cache, an engine's memory, what divides),
roofline estimates with intervals, their calibration by measured runs, and the choice made of them.
Does not belong here: the facts themselves, prices (``pricing``), measuring. What is computed here is an estimate
(origin ``estimated``) and never ranks beside a measurement.
"""
