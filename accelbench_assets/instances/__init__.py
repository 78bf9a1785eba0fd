"""Instance types: what AWS accelerated machines are made of.

Belongs here: the ``instance_types`` facts as a table, what EC2 says of them, and the merge of both, field by field.
Does not belong here: the packaged YAML (``partitions``), prices (``pricing``), choosing an instance.
"""
