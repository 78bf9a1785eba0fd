"""Models: what the catalog's models are.

Belongs here: the ``models`` facts as a table, and readers of live facts. Does not belong here: the packaged
YAML (``partitions``), weights on this machine (``engines``).
"""
