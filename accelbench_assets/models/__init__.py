"""Models: what the catalog's models are, and what the hub says a model is.

Belongs here: the ``models`` facts as a table, reading configurations and sizes of checkpoints, asking the hub,
comparing both. Does not belong here: the packaged YAML (``partitions``), weights on this machine (``engines``),
which release is new (``releases``).
"""
