"""Validity rules, one module a subject: each rule is a function that returns a verdict with its number and limit.

Belongs here: ``outcome`` (what a verdict is), ``client`` (was the generator the bottleneck), ``load`` (was the load
that was asked for really offered), ``answers`` (was the work the same and whole), ``evidence`` (is it enough, and was
it steady). Does not belong here: putting them together for a run (``validity``), computing metrics (``metrics``).
"""
