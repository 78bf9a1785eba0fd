"""Results that other load generators wrote, read into the lake as what they are: external.

Belongs here: recognising a result file (``registry``), one module a kind that says which of its figures is
the same quantity as one of ours, the value they all return (``model``), reading a file within bounds
(``document``), and writing it to the lake (``store``). Does not belong here: running those tools, their
formulas over our own log (``bench.compat``), flags and output (``cli``).

An import is never ``measured`` and never ranked: origin ``external``, evidence level ``demo``.
"""
