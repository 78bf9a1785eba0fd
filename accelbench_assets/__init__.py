"""AccelBench: which model, on which accelerated instance, with which engine, meets a latency target at the lowest cost.

Belongs here: the domain packages (``bench``, ``engines``, ``launch``, ``pricing``, ``models``, ``instances``, ``lake``,
``sqlkit``, ``reports``), the three faces on top of them (``defs`` for Dagster, ``cli``, ``api``) and their settings.
Does not belong here: sending load (``loadgen``, a package and image of its own), cells (``partitions``).

This module stays empty: the command line must start without Dagster, DuckDB or pyarrow.
"""
