"""Pages of metrics read beside a load, for an orchestrator that cannot reach them: a server's own, and those of the
accelerator exporters on its node.

Belongs here: reading them at 1 Hz in a process of its own (``child``), starting and ending that process (``beside``),
the form they are kept in (``pages``). Does not belong here: what the pages mean. This package parses none of them, and
nothing in it decides whether a run succeeds.

Every target of ``Plan.scrape`` leaves one file ``scrape-<n>.jsonl.gz`` beside ``shard.json`` (n: its place in the
plan), gzip of one JSON object a reading:

- ``at``: when, nanoseconds since 1970 (the middle of the reading, on the samples' clock), ``took_ms``;
- ``kind``, ``replica_id``, ``url``: the target's;
- ``when``: ``before`` this process sent anything, ``beside`` the load, ``after`` its last request;
- ``text``: the whole page as it was sent, or null; ``changed``: null, or the lines that differ from the reading before,
  line number (from 0) → what now stands after the line's last space. Exactly one of the two is given, or neither when
  ``error`` says why there was no reading. ``texts`` gives every page back whole.

Whole pages are written at both ends, every sixty readings, and whenever a line came, went or changed its name. An hour
of a busy page of 400 lines is 5 MiB, 19 MiB before compression (whole pages would be 9 and 147 MiB).

Shard 0 reads all the time; the other shards read the engines' pages once before and once after: the earliest of all
their first pages and the latest of their last frame every request of the run, with nothing agreed between them.
"""

from __future__ import annotations

from loadgen.scrape.pages import texts

__all__ = ["texts"]
