"""Instance types: what AWS accelerated machines are made of.

Belongs here: the ``instance_types`` facts as a table, and readers of live facts. Does not belong here: the
packaged YAML (``partitions``), prices (``pricing``), choosing an instance.
"""
