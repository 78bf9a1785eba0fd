"""What is worth measuring: the cell, its key, and the expansion of YAML rows into cells.

Belongs here: the ``BenchmarkCell`` value object and its text key, the validated YAML catalogs (models,
instances, suites), the matrix that turns a suite into cells. Imports nothing else of this project and needs
only PyYAML.
Does not belong here: running, pricing, sizing advice, workload documents (those are the load generator's, by
id).
"""
