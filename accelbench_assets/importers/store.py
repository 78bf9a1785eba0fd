"""From an imported benchmark to the lake: its cell, its ``runs`` record, one step, its percentiles.

Belongs here: names of what a file does not say, the run id made of the file's hash, rows and the order of
writes. Does not belong here: formats (one module a kind), flags (``cli``), the tables (``lake.tables``).

The run id is a UUIDv7 whose time is that of the measurement and whose other bits come from the SHA-256 of
the file's bytes, so a file has the same runs wherever and whenever it is imported. Derived rows are written
before the record, which makes them visible: an import cut short shows nothing, and can be repeated.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from accelbench_assets.bench.quantiles import QUANTILES, gate, requests_needed
from accelbench_assets.bench.record import clean, run_fields, timestamp
from accelbench_assets.errors import UsageError
from accelbench_assets.importers.document import ImportRefused, Source
from accelbench_assets.importers.model import Figure, ImportedRun, Load, closed_too
from accelbench_assets.lake.io import table_from_rows

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake
    from partitions.cell import BenchmarkCell

UNSTATED = "unstated"
STEP = 0
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Labels:
    """What the user says of a result beyond its file. *load* and *measured_at* fill what the file lacks."""

    instance: str | None = None
    model: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    load: Load | None = None
    measured_at: datetime | None = None
    source_url: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One benchmark ready to be written. Nothing of it depends on when or where it is imported."""

    run: ImportedRun
    cell: BenchmarkCell
    record: Record


def prepare(source: Source, runs: Iterable[ImportedRun], labels: Labels) -> list[Prepared]:
    """The records of the benchmarks *runs* of one file, nothing written.

    Raises ``ImportRefused`` when neither the file nor *labels* say the load, ``UsageError`` naming a label
    that cannot be.
    """
    return [_prepare(source, index, run, labels) for index, run in enumerate(runs)]


def write(lake: Lake, prepared: Prepared) -> bool:
    """Write one benchmark; False if it is in the lake already. Raises ``ImportRefused`` if it is there under
    other labels, ``LakeError`` when the lake cannot be written.
    """
    if known(lake, prepared):
        return False
    record = prepared.record
    lake.put_cell(prepared.cell)
    lake.write_run_table("run_steps", record, table_from_rows("run_steps", [step_row(prepared)]))
    lake.write_run_table("slo_results", record, table_from_rows("slo_results", []))
    rows = percentile_rows(prepared)
    lake.write_run_table("run_percentiles", record, table_from_rows("run_percentiles", rows))
    lake.commit({**record, "requested_at": timestamp()}, ())
    return True


def known(lake: Lake, prepared: Prepared) -> bool:
    """Whether this benchmark is in the lake; ``ImportRefused`` if it is, under another cell."""
    found = lake.run_record(prepared.record["run_id"])
    if found is not None and found["cell_key"] != prepared.cell.key_text:
        raise ImportRefused(
            f"{prepared.record['trigger_ref'].partition(' sha256:')[0]} was imported before, as run {found['run_id']} "
            f"with other labels ({found['cell_key']}).",
            hint="A file is imported once; give the same --model, --instance, --engine and load, or none.",
        )
    return found is not None


def _prepare(source: Source, index: int, run: ImportedRun, labels: Labels) -> Prepared:
    identity = run_id(source.sha256, index, run.started_at)  # of the file alone, whatever the labels
    if run.load is None:
        if labels.load is None:
            raise ImportRefused(
                f"{source.name}: the file does not say the load it was measured under.",
                hint="Give --concurrency C (requests in flight) or --rate R (requests a second).",
            )
        run = replace(run, load=labels.load, own=closed_too(run.own, labels.load))
    elif labels.load and (run.load.kind, run.load.value) != (labels.load.kind, labels.load.value):
        raise ImportRefused(
            f"{source.name}: the file says a load of {run.load.value:g} ({run.load.kind} loop), "
            f"another than --concurrency or --rate.",
            hint="Leave the flag out for files that say their load.",
        )
    if run.started_at is None:
        run = replace(run, started_at=labels.measured_at)
    elif labels.measured_at and abs(run.started_at - labels.measured_at) > timedelta(days=2):
        raise ImportRefused(
            f"{source.name}: the file says it was measured on {run.started_at:%Y-%m-%d}, another day than --date.",
            hint="Leave --date out for files that say their day.",
        )
    cell = _cell(source, run, labels)
    return Prepared(
        run, cell, {**_record(source, run, labels, cell), "run_id": identity, **_origin(source, index)}
    )


def _origin(source: Source, index: int) -> Record:
    return {"trigger_ref": f"{source.name} sha256:{source.sha256} #{index}"}


def _load(run: ImportedRun) -> Load:
    assert run.load is not None  # _prepare sees to it
    return run.load


def _cell(source: Source, run: ImportedRun, labels: Labels) -> BenchmarkCell:
    from accelbench_assets.launch.host import endpoint_instance
    from partitions.catalog import load_models
    from partitions.cell import BenchmarkCell, CellError, Deployment

    slugs = {row.model_id: row.slug for row in load_models().values()}
    if labels.instance:
        instance = labels.instance
    elif run.endpoint and re.match(r"https?://[^/\s]+", run.endpoint):
        instance = endpoint_instance(run.endpoint)
    else:  # a machine nobody named: as many of them as files
        instance = f"endpoint-{source.sha256[:8]}"
    load = _load(run)
    words = [f"external.{run.kind.replace('_', '-')}", f"{load.kind[0]}{load.value:g}"]
    lengths = (("isl", run.input_tokens_mean), ("osl", run.output_tokens_mean))
    words += [f"{name}{round(value)}" for name, value in lengths if value]
    try:
        return BenchmarkCell(
            model=labels.model or slugs.get(run.model or "") or slug(run.model),
            revision=UNSTATED,
            instance=instance,
            engine=(labels.engine or UNSTATED).lower(),
            engine_version=(labels.engine_version or UNSTATED).lower(),
            deployment=Deployment(),
            workload=re.sub(r"[^a-z0-9._-]", "-", ".".join(words)) + "@1",
        )
    except CellError as error:
        raise UsageError(f"--{error.field.replace('_', '-')}: {str(error).partition(': ')[2]}.") from None


def slug(model: str | None) -> str:
    """*model* as a slug for a cell's key: its last path element in lower case, ``unstated`` for none."""
    last = (model or UNSTATED).rstrip("/").rsplit("/", 1)[-1].lower()
    made = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9.-]", "-", last))).strip(".-")
    return made[:80].rstrip(".-") or "model-" + hashlib.sha256((model or "").encode()).hexdigest()[:8]


def run_id(sha256: str, index: int, measured_at: datetime | None) -> str:
    """The UUIDv7 of the *index*-th benchmark of a file. Without a time of its own a file counts as of 1970."""
    millis = max(0, int(measured_at.timestamp() * 1000)) if measured_at else 0
    rest = hashlib.sha256(f"{sha256}#{index}".encode()).hexdigest()
    head = f"{millis & (2**48 - 1):012x}"
    return f"{head[:8]}-{head[8:]}-7{rest[:3]}-{'89ab'[int(rest[3], 16) % 4]}{rest[4:7]}-{rest[7:19]}"


def _record(source: Source, run: ImportedRun, labels: Labels, cell: BenchmarkCell) -> Record:
    from partitions.catalog import load_models

    row, load, started = load_models().get(cell.model), _load(run), run.started_at
    tool = f"{run.tool} {run.tool_version or UNSTATED}"
    step = {"step_index": STEP, "load_kind": load.kind, "load_value": load.value, "arrival": load.arrival}
    record: Record = dict.fromkeys(run_fields())
    record |= {
        "cell_id": cell.cell_id,
        "cell_key": cell.key_text,
        "trial_index": 0,
        "evidence_level": "demo",
        "origin": "external",
        "hardware": "declared" if labels.instance else None,
        "launcher": "import",
        "instance_type": cell.instance,
        "model_id": row.model_id if row else run.model or labels.model or UNSTATED,
        "model_revision": cell.revision,
        "engine": cell.engine,
        "engine_version": cell.engine_version,
        "loadgen_version": tool,
        "workload_id": cell.workload,
        "load_kind": load.kind,
        "ladder": [{**step, "window_s": run.duration_s, "slo": None}],
        "load_started_at": timestamp(started) if started else None,
        "load_finished_at": timestamp(started + timedelta(seconds=run.duration_s)) if started else None,
        "status": "succeeded",
        "validity": _validity(source, run, tool),
        "partition_key": cell.key_text,
        "triggered_by": "import",
        "source_url": labels.source_url,
        "cost_missing_reason": None
        if labels.instance
        else "the file does not say which machine was measured",
    }
    return clean(record)


def _validity(source: Source, run: ImportedRun, tool: str) -> dict[str, dict[str, Any]]:
    """What a reader must know, as rules that warn: shown wherever the verdict of a run is explained."""
    said = f"Measured by {tool}, imported from {source.name}; never ranked."
    texts = {"external": said} | {f"external.{name}": text for name, text in run.reasons.items()}
    return {
        rule: {"verdict": "warn", "value": None, "limit": None, "text": text} for rule, text in texts.items()
    }


def step_row(prepared: Prepared) -> Record:
    """The ``run_steps`` row: the whole run is its window."""
    run, load = prepared.run, _load(prepared.run)
    total = None if run.errors is None else run.ok + run.errors
    known_rates = {name: value for name, value in run.rates.items() if value is not None}
    parts = (known_rates.get("input_tokens_per_s"), known_rates.get("output_tokens_per_s"))
    if "total_tokens_per_s" not in known_rates and None not in parts:
        known_rates["total_tokens_per_s"] = sum(part or 0.0 for part in parts)
    return {
        "run_id": prepared.record["run_id"],
        "cell_id": prepared.cell.cell_id,
        "step_index": STEP,
        "load_kind": load.kind,
        "load_value": load.value,
        "window_s": run.duration_s,
        "requests_scheduled": total,
        "ok": run.ok,
        "errors": run.errors,
        "error_rate": run.errors / total if run.errors is not None and total else None,
        "request_rate_offered": load.value if load.kind == "open" else None,
        "input_tokens_mean": run.input_tokens_mean,
        "output_tokens_mean": run.output_tokens_mean,
        "verdict": "warn",
        **known_rates,
    }


def percentile_rows(prepared: Prepared) -> list[Record]:
    """``run_percentiles``: what is the same quantity under our name and our gates, and all of the tool's own
    figures under ``<kind>.<name>``, as printed, with no gate.
    """
    run = prepared.run
    identity = {"run_id": prepared.record["run_id"], "cell_id": prepared.cell.cell_id, "step_index": STEP}
    rows = [_row(identity, name, figure, run, gated=True) for name, figure in run.own.items()]
    return rows + [_row(identity, f"{run.kind}.{f.metric}", f, run, gated=False) for f in run.verbatim]


def _row(
    identity: Mapping[str, Any], metric: str, figure: Figure, run: ImportedRun, *, gated: bool
) -> Record:
    row: Record = {
        **identity,
        "metric": metric,
        "unit": figure.unit,
        "n": figure.n,
        "n_failed": run.errors,
        "mean": figure.mean,
        "std": figure.std,
        "min": figure.low,
        "max": figure.high,
        "method": figure.method,
        "schema_version": "1",
    }
    for name, q in QUANTILES.items():
        value = figure.levels.get(name)
        if value is None:
            continue
        if not gated:
            row[name] = value
        elif not math.isfinite(value):
            row[f"{name}_gate"] = "beyond_timeout"
        elif (verdict := gate(q, run.ok)) == "needs_n":  # requests, as if independent: the file has no more
            row |= {f"{name}_gate": verdict, f"{name}_needs_n": requests_needed(q, 1.0)}
        else:
            row |= {name: value, f"{name}_gate": "wide"}  # no interval is known, so never `published`
    return row


def parse_day(text: str) -> datetime:
    """An ISO 8601 day or time; without a zone it is UTC. ``ValueError`` otherwise."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
