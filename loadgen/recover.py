"""Samples out of what a killed generator left in its output folder.

Belongs here: ``python -m loadgen recover --out DIR``: segments of the spool to parts, and a ``shard.json`` that
says the run is not complete.
Does not belong here: the segments' format (``spool``), decoding (``spool_decode``).

What had been received of answers still in flight when the generator was killed is lost; every answer that
had ended is there. Values of environment variables that look like secrets are masked in error texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen import __version__
from loadgen.ledger import Ledger
from loadgen.monitor import Monitor
from loadgen.output import OutputError, open_sink
from loadgen.run_setup import redactor
from loadgen.samples import SampleBatch
from loadgen.scrape.beside import adopt
from loadgen.spool import Spool, left_behind, origins, sweep_up
from loadgen.spool_decode import origin_of

_REASON = "recovered after the generator was killed"
_SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def main(argv: list[str]) -> int:
    """Recover every shard below ``--out``; 0 when there was one, 1 with a sentence on standard error when not."""
    parser = argparse.ArgumentParser(
        prog="python -m loadgen recover", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of the killed run")
    out: Path = parser.parse_args(argv).out
    folders = [folder for folder in (out, *sorted(out.glob("shard=*"))) if any(folder.glob(".spool-*-*.raw"))]
    try:
        if not folders:
            raise OutputError(
                f"There is nothing to recover in {out}: no spool of a killed generator is there."
            )
        for folder in folders:
            rows = recover(folder)
            print(f"{folder}: {rows} samples recovered")
    except OutputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def recover(folder: Path) -> int:
    """Turn the spool in *folder* into parts and ``shard.json``; returns how many samples the folder has now.
    Raises ``OutputError``."""
    try:
        segments = left_behind(folder)
    except BlockingIOError:
        text = (
            f"The generator that writes to {folder} is still running; recover its samples when it has ended."
        )
        raise OutputError(text) from None
    sink = open_sink(str(folder.parent), folder.name)
    parts = [_part(path) for path in sorted(folder.glob("part-*.parquet"))]
    known = _request_ids(folder, parts)
    steps = []
    records: list[dict[str, Any]] = []
    for record, group in _by_step(segments):
        records.append(record)
        spool = Spool(folder)
        spool.segments = group
        origin = origin_of(record, redactor(_secrets()))
        ledger = Ledger(origin, Monitor(), record["measure_ns"], record["measure_end_ns"], spool, known)
        name = f"part-{record['step_index']:03d}"
        numbers = iter(range(sum(part["name"].startswith(name) for part in parts), 1_000_000))

        def emit(batch: SampleBatch, name: str = name, numbers: Iterator[int] = numbers) -> None:
            data = batch.to_parquet()
            file = f"{name}-{next(numbers):03d}.parquet"
            sink.put(file, data)
            digest = hashlib.sha256(data).hexdigest()
            parts.append({"name": file, "rows": len(batch), "bytes": len(data), "sha256": digest})

        ledger.settle(emit)
        steps.append(_step(record, ledger))
    if not records:
        raise OutputError(
            f"There is nothing to recover in {folder}: the generator was killed before its first answer ended."
        )
    shard = {
        "format": 1,
        "run_id": records[-1]["run_id"],
        "shard": records[-1]["shard"],
        "complete": False,
        "reason": _REASON,
        "rows": sum(part["rows"] for part in parts),
        "parts": parts,
        "loadgen_version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "steps": steps,
        "client": None,
        "scrapes": adopt(folder),
        "warnings": ["answers in flight when the generator was killed are missing"],
    }
    sink.put("shard.json", json.dumps(shard, indent=1).encode())
    sweep_up(folder)
    return int(shard["rows"])


def _by_step(segments: list[Path]) -> Iterator[tuple[dict[str, Any], list[Path]]]:
    """Segments of each step with the last origin record among them; a segment decoded before has none of its
    own and belongs to the step of the next."""
    groups: dict[int, tuple[dict[str, Any], list[Path]]] = {}
    orphans: list[Path] = []
    for segment in segments:
        found = list(origins(segment))
        orphans.append(segment)
        if found:
            _, before = groups.get(found[-1]["step_index"], ({}, []))
            groups[found[-1]["step_index"]] = (found[-1], [*before, *orphans])
            orphans = []
    yield from groups.values()


def _step(record: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    offset = record["wall_offset_ns"]
    return {
        "step_index": record["step_index"],
        "phase_starts_ns": {"measure": record["measure_ns"] + offset},
        "measure_end_ns": record["measure_end_ns"] + offset,
        "sent": ledger.window_sent,
        "ok": ledger.window_ok,
        "failed_by_class": dict(sorted(ledger.window_failures.items())),
        "cut": ledger.window_cut,
        "requests_by_replica": dict(sorted(ledger.requests_by_replica.items())),
    }


def _part(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    data = path.read_bytes()
    rows = pq.read_metadata(path).num_rows
    return {"name": path.name, "rows": rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _request_ids(folder: Path, parts: list[dict[str, Any]]) -> frozenset[str]:
    """Requests whose samples were written before the end: their segment may still be there too."""
    import pyarrow.parquet as pq

    columns = (pq.read_table(folder / part["name"], columns=["request_id"]) for part in parts)
    return frozenset(ident for column in columns for ident in column["request_id"].to_pylist())


def _secrets() -> list[str | None]:
    return [
        value for name, value in os.environ.items() if any(part in name.upper() for part in _SECRET_NAMES)
    ]
