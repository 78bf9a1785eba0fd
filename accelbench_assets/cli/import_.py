"""``accelbench import``: results of other load generators, into the lake as external.

Belongs here: checking the labels a user gives, reading all files before any is written, the listing.
Does not belong here: the formats and the rows (``importers``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.output import Column, emit
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from accelbench_assets.importers.store import Labels, Prepared

COLUMNS = (
    Column("file", "file", keep=3),
    Column("kind", "kind"),
    Column("model", "model", keep=2),
    Column("load", "load"),
    Column("ok", "ok", "int", keep=5),
    Column("errors", "errors", "int", keep=6),
    Column("requests_per_s", "req/s", "rate", keep=4),
    Column("output_tokens_per_s", "out tok/s", "rate", keep=1),
    Column("run", "run"),
    Column("state", "state"),
)
FIELDS = (
    *("file", "sha256", "kind", "tool_version", "run_id", "cell_id", "cell_key", "model", "load_kind"),
    *("load_value", "started_at", "duration_s", "ok", "errors", "requests_per_s", "output_tokens_per_s"),
    *("metrics", "reasons", "origin", "evidence_level", "state"),
)


def import_results(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Result files of vllm bench, guidellm, aiperf, genai-perf, inference-perf or oha.",
        ),
    ],
    instance: Annotated[
        str | None, typer.Option("--instance", help="What was measured on, such as g6e.xlarge.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="SLUG", help="The model that was served.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="The engine that served it.")] = None,
    engine_version: Annotated[
        str | None, typer.Option("--engine-version", help="Its version, such as 0.33.0.")
    ] = None,
    concurrency: Annotated[
        float | None, typer.Option("--concurrency", help="Requests in flight, where the file does not say.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests a second, where the file does not say.")
    ] = None,
    date: Annotated[
        str | None, typer.Option("--date", help="Day of the measurement, where the file does not say.")
    ] = None,
    source_url: Annotated[
        str | None, typer.Option("--source-url", metavar="URL", help="Where the figures were published.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the files, write nothing.")] = False,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Import result files of other load generators: kind detected, origin external, never ranked.

    A figure that is the same quantity as one of ours goes under our name; every figure is kept under the
    tool's name as well. A file that was imported before is recognised by its content and left as it is.
    """
    format_ = chosen(fmt, as_json)
    from accelbench_assets.importers.registry import read_file
    from accelbench_assets.importers.store import known, prepare, write

    labels = check_labels(instance, model, engine, engine_version, concurrency, rate, date, source_url)
    benchmarks = []
    for path in files:  # all of them before any is written
        source, runs = read_file(path)
        benchmarks += [(source, one) for one in prepare(source, runs, labels)]
    lake = STATE.lake()
    if not dry_run:
        lake.check_writable()
    rows, seen = [], set()
    for source, one in benchmarks:
        identity = one.record["run_id"]
        there = identity in seen or known(lake, one)
        state = "known" if there else "planned" if dry_run else "imported"
        if state == "imported" and not write(lake, one):
            state = "known"
        seen.add(identity)
        rows.append(_row(source.name, source.sha256, one, state))
    emit(rows, COLUMNS, format_, fields=FIELDS)
    if format_ is Format.table:
        _explain([row["state"] for row in rows])


def check_labels(
    instance: str | None,
    model: str | None,
    engine: str | None,
    engine_version: str | None,
    concurrency: float | None,
    rate: float | None,
    date: str | None,
    source_url: str | None,
) -> Labels:
    """The labels of the flags; ``UsageError`` names the flag that cannot be."""
    from accelbench_assets.importers.model import Load
    from accelbench_assets.importers.store import Labels, parse_day
    from partitions.cell import CellError, family_of

    if instance is not None:
        try:
            family_of(instance)
        except CellError as error:
            raise UsageError(f"--instance: {str(error).partition(': ')[2]}.") from None
    if engine_version is not None and engine is None:
        raise UsageError("--engine-version needs --engine beside it.")
    if concurrency is not None and rate is not None:
        raise UsageError("--concurrency and --rate exclude each other: a loop is closed or open.")
    for flag, value, least in (("--concurrency", concurrency, 1.0), ("--rate", rate, 1e-6)):
        if value is not None and not least <= value < 1_000_000:
            raise UsageError(f"{flag}: {value:g} is not a number of at least {least:g} and below 1,000,000.")
    load = None
    if concurrency is not None:
        load = Load("closed", concurrency)
    elif rate is not None:
        load = Load("open", rate, "unstated")
    measured_at = None
    if date is not None:
        try:
            measured_at = parse_day(date)
        except ValueError:
            raise UsageError(f"--date: {date!r} is no day such as 2026-11-01.") from None
    if source_url is not None:
        parts = urlsplit(source_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("--source-url: this is not an http or https URL.")
    return Labels(instance, model, engine, engine_version, load, measured_at, source_url)


def _row(file: str, sha256: str, one: Prepared, state: str) -> dict[str, Any]:
    from accelbench_assets.cli.progress import load_label

    run, record = one.run, one.record
    load = run.load
    assert load is not None  # prepare() sees to it
    return {
        "file": file,
        "sha256": sha256,
        "kind": run.kind,
        "tool_version": run.tool_version,
        "run_id": record["run_id"],
        "run": str(record["run_id"])[:13],
        "cell_id": one.cell.cell_id,
        "cell_key": one.cell.key_text,
        "model": one.cell.model,
        "load": load_label(load.kind, load.value),
        "load_kind": load.kind,
        "load_value": load.value,
        "started_at": record["load_started_at"],
        "duration_s": run.duration_s,
        "ok": run.ok,
        "errors": run.errors,
        "requests_per_s": run.rates.get("requests_per_s"),
        "output_tokens_per_s": run.rates.get("output_tokens_per_s"),
        "metrics": sorted(run.own),
        "reasons": dict(run.reasons),
        "origin": record["origin"],
        "evidence_level": record["evidence_level"],
        "state": state,
    }


def _explain(states: list[str]) -> None:
    if "imported" in states:
        STATE.note(
            "`accelbench query --origin external` lists them; `accelbench show RUN` says which figure means what."
        )
    if "planned" in states:
        STATE.note("dry run: nothing was written.")
    if "known" in states:
        STATE.note("known: this very file is in the lake already; it was left as it is.")
