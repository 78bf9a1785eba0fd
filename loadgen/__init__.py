"""AccelBench's load generator: a package of its own that imports nothing else of the project.

Contract: it is given a plan (``plan``), sends HTTP requests to servers that speak the OpenAI API, stamps
every socket read with one monotonic clock, and leaves per-request samples (``samples.sample_schema``) and
``shard.json`` in a folder or an S3 prefix. It starts no server, computes no percentile, judges no run and
knows no price.

Seams: ``transport`` (how bytes travel: plain or TLS), ``schedule`` (when requests are due), ``prompts``
(what they say), ``decode`` (what came back), ``output`` (where parts go), ``truth`` (a server that logs
what it really did). Modules the command line needs at start import neither pyarrow nor numpy.
"""

from __future__ import annotations

__version__ = "0.1.0"
