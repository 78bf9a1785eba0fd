"""The lake: where every measurement lies, on a local folder or on S3, behind one class.

Belongs here: storage (``storage``, ``s3``), table schemas (``tables``), keys (``layout``), Parquet and record
I/O (``io``), the commit and the reaper (``commit``), and the facade everything else uses (``lake.Lake``).
Does not belong here: what a table's figures mean (``bench``), SQL over the tables (``sqlkit``), the samples'
schema (owned by ``loadgen.samples``, re-exported by ``tables``).
"""
