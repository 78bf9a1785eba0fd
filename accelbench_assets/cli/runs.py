"""``runs``, ``show``, ``logs`` and ``reap``: attempts, what became of them, and their logs.

Belongs here: listing and inspecting runs records.
Does not belong here: starting runs (``run``), comparing them (``compare``).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    LimitOption,
    QuietOption,
    chosen,
    near,
)
from accelbench_assets.cli.output import Column, console, emit, number, plain
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError
from accelbench_assets.scrub import scrub

RUN_COLUMNS = (
    Column("run", "run"),
    Column("status", "status"),
    Column("requested_at", "started (UTC)", "time", keep=3),
    Column("model", "model", keep=2),
    Column("engine", "engine", keep=1),
    Column("engine_version", "version", keep=5),
    Column("instance_type", "instance", keep=4),
    Column("workload_id", "workload", keep=6),
    Column("evidence_level", "evidence", keep=7),
    Column("origin", "origin"),
    Column("failure_text", "why", keep=9, wrap=True),
)
RUN_FIELDS = (
    *("run_id", "status", "requested_at", "committed_at", "torn_down_at", "cell_id", "cell_key", "model_id"),
    *("engine", "engine_version", "instance_type", "workload_id", "evidence_level", "origin", "samples_rows"),
    *("failure_code", "failure_text", "run_cost_usd", "reproduce_command"),
)
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run id, or enough of its beginning or end.")
]


def runs(
    status: Annotated[
        str | None, typer.Option("--status", help="Only runs that ended so, or `running`.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Only this model (slug or part of the id).")
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Only this instance (`local`: this family).")
    ] = None,
    limit: LimitOption = 20,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List runs, newest first, whatever became of them."""
    format_ = chosen(fmt, as_json)
    from accelbench_assets.cli.results import reap_dead
    from accelbench_assets.lake.tables import STATUSES

    if status is not None and status not in (*STATUSES, "running"):
        raise UsageError(f"--status: {status!r} is not a status. {near(status, [*STATUSES, 'running'])}")
    lake = STATE.lake()
    reap_dead(lake)
    going_on = [{**attempt, "status": "running"} for attempt in reversed(lake.open_attempts())]
    found = [*going_on, *lake.run_records()]
    chosen_rows = [
        row for row in found if (status is None or row["status"] == status) and _about(row, model, instance)
    ][:limit]
    if format_ is Format.table:
        for row in chosen_rows:
            row["run"] = str(row["run_id"])[:13]
            row["model"] = _key_part(row, 0).partition("@")[0]
            row["failure_text"] = in_short(str(row.get("failure_text") or ""))
    emit(
        chosen_rows,
        RUN_COLUMNS,
        format_,
        fields=RUN_FIELDS,
        empty="No runs here yet: `accelbench demo` makes one." if not found else "No run matches.",
    )
    failed = next((row for row in chosen_rows if row["status"] == "failed"), None)
    if format_ is Format.table and failed is not None:
        STATE.note(f"{logs_hint(failed['run_id'])}; the same with any other RUN.")


def logs_hint(run_id: object) -> str:
    """Where the reason of a failed run is to be read."""
    return f"`accelbench logs {str(run_id)[:13]}` lists what a failed run's engine and generator wrote"


def in_short(text: str) -> str:
    """The first sentence of *text*, at most 60 characters, with ``…`` where something was cut off."""
    first = text.split(". ")[0]
    return first if len(first) <= 60 and len(first) >= len(text.rstrip()) else first[:59].rstrip() + "…"


def _key_part(row: Mapping[str, Any], part: int) -> str:
    """Part 0 (model@revision) or 1 (instance) of the row's cell key."""
    return (*str(row.get("cell_key") or "").split("~"), "")[part]


def _about(row: Mapping[str, Any], model: str | None, instance: str | None) -> bool:
    """Whether the row is about this model (slug, or part of the id) and this instance (or its family)."""
    slug, where = _key_part(row, 0).partition("@")[0], _key_part(row, 1)
    if model is not None and model != slug and model.lower() not in str(row.get("model_id") or "").lower():
        return False
    return instance is None or instance == where or re.split(r"[.-]", where)[0] == instance


def show(
    run: RunArgument,
    compat: Annotated[
        bool,
        typer.Option(
            "--compat", help="Instead: what other load generators' formulas make of this run's samples."
        ),
    ] = False,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Everything known of one run: results, validity rules with their numbers, record.

    JSON is one object: run (the record), steps (each with its percentiles), slo, cost, paths. CSV has one
    line a step. With --compat, rows: step_index, load, tool, tool_version, metric, unit, n, mean, p50, p90, p95,
    p99, note.
    """
    format_ = chosen(fmt, as_json)
    if compat:
        _show_compat(run, format_)
        return
    from accelbench_assets.cli.launching import write_results
    from accelbench_assets.cli.results import find_record, read_results

    lake = STATE.lake()
    results = read_results(lake, find_record(lake, run))
    if format_ is not Format.table:
        write_results(results, format_)
        return
    from accelbench_assets.cli.ladder import has_price, print_ladder, validity_rows
    from accelbench_assets.cli.output import write_table

    record, out = results.record, console()
    if results.steps:
        print_ladder(results)
        if line := capacity_line(record):
            out.print(line, style="bold")
    else:
        out.print(f"{record['run_id']}: {record['status']}", style="bold")
        out.print(scrub(str(record.get("failure_text") or "no reason was recorded")), soft_wrap=True)
        if record["status"] == "failed":
            STATE.note(f"{logs_hint(record['run_id'])}.")
    rules = validity_rows(record)
    if rules:
        out.print()
        for row in rules:
            row["value"], row["limit"] = _figure(row["value"]), _figure(row["limit"])
        write_table(
            [
                Column("rule", "validity rule"),
                Column("verdict", "verdict"),
                Column("value", "value", keep=2),
                Column("limit", "limit", keep=1),
                Column("text", "what it says", keep=3, wrap=True),
            ],
            rules,
        )
    if results.slo:
        out.print()
        write_table(SLO_COLUMNS, results.slo, title="SLO attainment")
    out.print()
    elsewhere = {"validity", "ladder", "env", "engine_args", "client", "capacity", "canary"}
    if has_price(results):  # it became known after the run: the record's reason is no longer one
        elsewhere.add("cost_missing_reason")
    for name, value in record.items():
        if value is not None and value != {} and name not in elsewhere:
            out.print(f"{name + ':':24}{plain(value)}", soft_wrap=True)
    for name in ("client", "capacity", "canary", "engine_args", "env", "ladder"):
        if record.get(name):
            out.print(f"{name + ':':24}{plain(record[name])}", soft_wrap=True)


COMPAT_FIELDS = (
    *(
        "step_index",
        "load",
        "tool",
        "tool_version",
        "metric",
        "unit",
        "n",
        "mean",
        "p50",
        "p90",
        "p95",
        "p99",
    ),
    "note",
)


def _show_compat(run: str, fmt: Format) -> None:
    """The run's samples in other tools' words: for reading beside published figures, never for ranking."""
    from accelbench_assets.cli.progress import load_label
    from accelbench_assets.cli.results import find_record

    lake = STATE.lake()
    record = find_record(lake, run)
    steps = {s["step_index"]: s for s in lake.run_table("run_steps", record).to_pylist()}
    rows = lake.run_table("run_compat", record).to_pylist()
    for row in rows:
        step = steps.get(row["step_index"], {})
        row["load"] = load_label(str(step.get("load_kind")), float(step.get("load_value") or 0))
    if fmt is Format.table and rows:
        STATE.note(
            f"run {record['run_id']}: the formulas of other tools on our samples; our own figures: `show {run}`"
        )
    columns = [
        Column("load", "load"),
        Column("tool", "tool"),
        Column("metric", "metric"),
        Column("unit", "unit"),
    ]
    columns += [Column(name, name, "rate") for name in ("mean", "p50", "p90", "p95", "p99")]
    columns.append(Column("note", "note", keep=9, wrap=True))
    emit(
        rows,
        columns,
        fmt,
        fields=COMPAT_FIELDS,
        empty="This run has no derived figures in other tools' words.",
    )


def capacity_line(record: Mapping[str, Any]) -> str | None:
    """What a capacity search found, in one sentence; ``None`` for another run."""
    found = record.get("capacity")
    if not found:
        return None
    rate, knee = found.get("capacity_requests_per_s"), found.get("knee_concurrency")
    what = (
        f"{number(rate)} req/s within the objective, confirmed in an open loop"
        if rate
        else "none was confirmed"
    )
    closed = f"; the closed loop's knee is C={knee:g}" if knee else ""
    return f"capacity: {what}{closed}." + (f" {found['reason']}" if found.get("reason") else "")


SLO_COLUMNS = (
    Column("step_index", "step", "int"),
    Column("slo_id", "slo"),
    Column("attainment", "attained", "share"),
    Column("attainment_low", "at least", "share", keep=2),
    Column("attainment_high", "at most", "share", keep=3),
    Column("goodput_rps", "good req/s", "rate", keep=1),
    Column("decision", "decision"),
)


def _figure(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return number(value) if value is None or isinstance(value, float) else str(value)


def logs(
    run: RunArgument,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Which log; without it they are listed.")
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the logs kept beside a run, or print one."""
    format_ = chosen(fmt, as_json)
    from accelbench_assets.cli.results import find_record

    lake = STATE.lake()
    record = find_record(lake, run)
    run_id = str(record["run_id"])
    names = lake.log_names(run_id)
    if name is None:
        rows = [{"run_id": run_id, "name": n} for n in names]
        emit(
            rows, [Column("name", "log")], format_, fields=("run_id", "name"), empty="This run kept no logs."
        )
        return
    if name not in names:
        raise UsageError(f"logs: run {run_id} has no log {name!r}. {near(name, names)}")
    text = scrub(lake.read_log(run_id, name))
    if format_ is Format.json:
        from accelbench_assets.cli.output import write_json

        write_json({"run_id": run_id, "name": name, "text": text})
    else:
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
