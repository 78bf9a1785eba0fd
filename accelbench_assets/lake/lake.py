"""The lake as everything else sees it: one class over a root URL.

Belongs here: the layout (which key holds what) and the public methods; the work is in ``layout``, ``commit``,
``io``, ``storage``. Does not belong here: SQL (``sqlkit``), meaning of the figures (``bench``).

Layout below the root::

    _incoming/run_id=…/attempt.json, shard=NNN/part-*.parquet, shard=NNN/shard.json
    raw_samples/family=…/cell_id=…/run_id=…/part-SSS-NNN.parquet, _shard-SSS.json      succeeded runs only
    runs/date=…/run_id=….json                                                          last write of every
    attempt run_steps | run_percentiles | slo_results | engine_metrics
    /family=…/cell_id=…/run_id=…/part-0.parquet facts/<table>/date=…/part-<hash>.parquet
    judgements/<table>/date=…/part-<hash>.parquet marts/<name>/part-0.parquet     logs/run_id=…/<name>
    cells/family=…/<16 hex of the key>.json, cells/_index/part-<hash>.jsonl     cell_artefacts/family=…/<same>.json
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import LakeError
from accelbench_assets.lake import commit, io, layout, registry
from accelbench_assets.lake.storage import MissingKeyError, Storage, open_storage
from accelbench_assets.lake.tables import FACT_TABLES, JUDGEMENT_TABLES, RUN_TABLES

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

    from partitions.cell import BenchmarkCell


class Lake:
    """A lake root. Cheap to construct: nothing is contacted or created before the first call."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.url = storage.url

    @classmethod
    def open(cls, url: str) -> Lake:
        """The lake at ``file:///abs`` or ``s3://bucket/prefix``; ``LakeError`` for any other URL."""
        return cls(open_storage(url))

    def uri(self, *parts: str) -> str:
        """The URL of something inside the lake."""
        return "/".join((self.url, *parts))

    def check_writable(self) -> None:
        """Raise ``LakeError`` in one clear sentence, within 10 s, when nothing can be written here."""
        self.storage.probe()

    # -- attempts and the commit -----------------------------------------------------------------------------

    def begin_attempt(self, record: Mapping[str, Any]) -> None:
        """Register an attempt: the runs record so far plus ``host_fingerprint``, ``pid`` and ``lock``.

        ``LakeError`` if an attempt or a record of this run_id exists.
        """
        commit.begin_attempt(self.storage, record)

    def amend_attempt(self, run_id: str, facts: Mapping[str, Any]) -> None:
        """Add what became known of an open attempt to its registration. ``LakeError`` if there is none."""
        commit.amend_attempt(self.storage, run_id, facts)

    def incoming_uri(self, run_id: str) -> str:
        """Where the generator of this run writes: its ``--out``."""
        return self.uri(layout.incoming_folder(run_id))

    def verify_shards(self, run_id: str, shards: int) -> tuple[dict[str, Any], ...]:
        """The ``shard.json`` documents of shards 0..shards-1, after checking rows and SHA-256 of every part.

        ``LakeError`` names the first thing that is missing or differs.
        """
        return commit.verify_shards(self.storage, run_id, shards)

    def read_incoming(self, run_id: str) -> pa.Table:
        """All samples of an uncommitted run; an empty table with the schema if there are none."""
        return io.read_incoming(self.storage, run_id)

    def commit(self, record: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]) -> None:
        """Publish a succeeded run: move its parts to ``raw_samples/``, then write its record,
        create-if-absent.

        *shards* is what :meth:`verify_shards` returned. Killed at any point it leaves either nothing visible
        or the whole run. Fills ``samples_rows``, ``samples_sha256`` and ``committed_at`` when the record
        lacks them.
        """
        commit.commit(self.storage, record, shards)

    def finish(self, record: Mapping[str, Any]) -> bool:
        """Write the record of an attempt that did not succeed; False if a record existed. Its samples stay in
        ``_incoming/`` (parts an interrupted commit had moved go back there).
        """
        return commit.finish(self.storage, record)

    def open_attempts(self) -> list[dict[str, Any]]:
        """Attempts that have no runs record, oldest first."""
        return commit.open_attempts(self.storage)

    def reap(self, host_fingerprint: str, is_alive: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """End dead attempts of this host as ``infra_lost`` and mend interrupted commits; returns the new
        records.
        """
        return commit.reap(self.storage, host_fingerprint, is_alive)

    def end_lost(self, run_id: str, *, code: str, text: str) -> dict[str, Any] | None:
        """End an open attempt whose orchestrator is known to be gone as ``infra_lost``; its record, or ``None`` if
        there is no such attempt or it had ended (then only what a crash left untidy is tidied).
        """
        attempt = commit.read_attempt(self.storage, run_id)
        return None if attempt is None else commit.end_lost(self.storage, attempt, code, text)

    def put_incoming(self, run_id: str, name: str, path: Path) -> str:
        """Put a file the generator needs beside the run's samples; returns its URI."""
        self.storage.put_file(f"{layout.incoming_folder(run_id)}/{name}", path)
        return self.uri(layout.incoming_folder(run_id), name)

    def shards(self, run_id: str) -> tuple[dict[str, Any], ...]:
        """The ``shard.json`` documents of a run, committed or not; empty if it left none."""
        return commit.read_shards(self.storage, run_id)

    # -- runs ------------------------------------------------------------------------------------------------

    def run_record(self, run_id_or_prefix: str) -> dict[str, Any] | None:
        """The record of a run by id, unique prefix or unique suffix of at least 4 characters; ``None`` if
        there is none. ``LakeError`` when several runs match.
        """
        return io.find_run(self.storage, run_id_or_prefix)

    def run_records(
        self, *, status: str | None = None, cell_id: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Runs records, newest first."""
        records = io.read_runs(self.storage, limit if status is None and cell_id is None else None)
        chosen = [
            r
            for r in records
            if (status is None or r["status"] == status) and (cell_id is None or r["cell_id"] == cell_id)
        ]
        return chosen[:limit]

    # -- tables ----------------------------------------------------------------------------------------------

    def samples(self, run_id: str) -> pa.Table:
        """Committed samples of one run; ``LakeError`` if the run has no succeeded record."""
        return io.read_samples(self.storage, run_id)

    def sample_dataset(self, run_id: str) -> ds.Dataset:
        """The same as a dataset that is read in pieces: a long run does not fit memory as a table."""
        return io.sample_dataset(self.storage, run_id)

    def write_run_table(self, table: str, record: Mapping[str, Any], data: pa.Table) -> str:
        """Write one run's part of a derived table (``RUN_TABLES``), atomically; returns its URI."""
        if table not in RUN_TABLES:
            raise LakeError(
                f"{table!r} is not a table written by run; expected one of {', '.join(RUN_TABLES)}."
            )
        key = f"{layout.run_folder(table, record)}/part-0.parquet"
        self.storage.write(key, io.parquet_bytes(table, data))
        return self.uri(key)

    def run_table(self, table: str, record: Mapping[str, Any]) -> pa.Table:
        """One run's part of a derived table; empty where it was not written."""
        key = f"{layout.run_folder(table, record)}/part-0.parquet"
        return io.read_run_table(self.storage, table, key)

    def has_run_table(self, table: str, record: Mapping[str, Any]) -> bool:
        """Whether one run's part of a derived table was written."""
        return self.storage.exists(f"{layout.run_folder(table, record)}/part-0.parquet")

    def write_fact(self, table: str, date: str, data: pa.Table) -> str:
        """Append a snapshot of facts or judgements (ISO *date*); the same data on the same date lands in one
        file.
        """
        if table not in (*FACT_TABLES, *JUDGEMENT_TABLES):
            raise LakeError(f"{table!r} is not a table of facts or judgements.")
        content = io.parquet_bytes(table, data)
        name = hashlib.sha256(content).hexdigest()[:16]
        key = f"{layout.dated_folder(table)}/date={date}/part-{name}.parquet"
        self.storage.write(key, content)
        return self.uri(key)

    def write_mart(self, name: str, data: pa.Table) -> str:
        """Replace a mart atomically; returns its URI."""
        key = f"marts/{name}/part-0.parquet"
        self.storage.write(key, io.parquet_bytes(None, data))
        return self.uri(key)

    def read_table(self, name: str) -> pa.Table:
        """A whole table or mart. Tables of runs show succeeded runs only; unwritten tables are empty, with
        schema.

        ``LakeError`` for a mart that was never built or an unknown name.
        """
        return io.read_table(self.storage, name)

    # -- logs and the registry of cells ----------------------------------------------------------------------

    def put_log(self, run_id: str, name: str, path: Path) -> None:
        """Keep a log file beside the run."""
        self.storage.put_file(f"{layout.log_folder(run_id)}/{name}", path)

    def log_names(self, run_id: str) -> list[str]:
        """Names of the kept logs of a run."""
        folder = layout.log_folder(run_id)
        return [key.removeprefix(f"{folder}/") for key in self.storage.list(folder)]

    def read_log(self, run_id: str, name: str) -> str:
        """Text of a kept log; undecodable bytes are replaced. ``LakeError`` if it does not exist."""
        return self.storage.read(f"{layout.log_folder(run_id)}/{name}").decode("utf-8", "replace")

    def put_cell(self, cell: BenchmarkCell) -> None:
        """Register a cell, so that its text key can be turned back into it; registering twice is harmless."""
        registry.put_cell(self.storage, cell)

    def put_cells(self, cells: Collection[BenchmarkCell]) -> None:
        """Register many cells at once."""
        registry.put_cells(self.storage, cells)

    def put_cell_artefacts(self, key_text: str, artefacts: Mapping[str, str]) -> None:
        """Keep which ``engine_image`` or ``model_commit`` a cell's release is; the last word counts."""
        self.storage.write(layout.artefacts_key(key_text), io.dump_json(dict(artefacts)))

    def cell_artefacts(self, key_text: str) -> dict[str, str]:
        """What was kept of a cell's release; empty where the catalogs say it all."""
        try:
            found: dict[str, str] = io.read_json(self.storage, layout.artefacts_key(key_text))
        except MissingKeyError:
            return {}
        return found

    def find_cell(self, key_text: str) -> BenchmarkCell | None:
        """The registered cell of a text key. Raises ``CellError`` for a malformed key."""
        from partitions.cell import BenchmarkCell

        try:
            return BenchmarkCell.from_dict(io.read_json(self.storage, layout.cell_key(key_text)))
        except MissingKeyError:
            return None

    def cells(self) -> list[BenchmarkCell]:
        """Every registered cell, by key."""
        return registry.read_cells(self.storage)
