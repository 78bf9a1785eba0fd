"""``accelbench compare``: two to four runs side by side.

Belongs here: choosing the runs, putting their figures beside each other, ratios against the first.
Does not belong here: any claim of significance: a run is one trial, and one trial a side supports none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from accelbench_assets.cli.ladder import cost_line, cost_rows, missing_cost, worst_verdict
from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
    split_list,
)
from accelbench_assets.cli.output import Column, console, number, write_csv, write_json, write_table
from accelbench_assets.cli.progress import load_label
from accelbench_assets.cli.results import RunResults, find_record, quantile_cell, read_results, rows
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

NOTE = "no trial-level test: one run each"
QUANTILES = (
    ("ttft", "p50"),
    ("ttft", "p90"),
    ("ttft", "p99"),
    ("tpot", "p50"),
    ("itl", "p50"),
    ("itl", "p99"),
    ("e2e", "p50"),
    ("e2e", "p99"),
)
RATES = (("output_tokens_per_s", "tok/s"), ("requests_per_s", "req/s"), ("error_rate", "share"))
COST = "usd_per_1m_output_full_hour"
LETTERS = "ABCD"


def compare(
    runs: Annotated[
        str | None, typer.Option("--runs", metavar="A,B", help="Two to four runs, by id or prefix.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --instances or --engines: this model.")
    ] = None,
    instances: Annotated[
        str | None, typer.Option("--instances", metavar="A,B", help="Instance types to compare.")
    ] = None,
    engines: Annotated[
        str | None, typer.Option("--engines", metavar="A,B", help="Engines to compare.")
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="With --engines: on this instance.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="With --instances: of this engine.")] = None,
    workload: Annotated[str | None, typer.Option("--workload", help="Only runs of this workload.")] = None,
    origin: Annotated[
        str | None, typer.Option("--origin", help="measured (default), simulated, …, or any.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare runs of different workloads all the same.")
    ] = False,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Put two to four runs side by side, with ratios against the first; with --engines or --instances,
    current runs.

    JSON is one object: note, workload_ids, subjects, rows (load, metric, unit, values, gates, ratios).
    """
    format_ = chosen(fmt, as_json)
    given = [name for name, v in (("--runs", runs), ("--instances", instances), ("--engines", engines)) if v]
    if len(given) != 1:
        raise UsageError("compare needs exactly one of --runs A,B, --instances A,B or --engines A,B.")
    narrowing = (
        ("--model", model),
        ("--instance", instance),
        ("--engine", engine),
        ("--workload", workload),
        ("--origin", origin),
    )
    if runs and (beside := next((name for name, value in narrowing if value is not None), None)):
        raise UsageError(f"{beside} cannot be combined with --runs: the runs are named already.")
    wanted = split_list(given[0], runs or instances or engines)
    if not 2 <= len(wanted) <= 4:
        raise UsageError(f"{given[0]}: two to four are compared, {len(wanted)} were given.")
    if len(set(wanted)) != len(wanted):
        raise UsageError(f"{given[0]}: the same one is given twice.")
    lake = STATE.lake()
    if runs is None:
        column = "engine" if engines else "instance_type"
        filters = {
            "model": model,
            "engine": engine,
            "instance_type": instance,
            "workload_id": workload,
            "origin": origin or "measured",
        }
        wanted = current_runs(column, wanted, filters)
    subjects = [read_results(lake, find_record(lake, run)) for run in wanted]
    check_comparable(subjects, force)
    document = comparison(subjects)
    if format_ is Format.json:
        write_json(document)
    elif format_ is Format.csv:
        write_csv(*flat(document))
    else:
        show(document, subjects)


def current_runs(column: str, wanted: Sequence[str], filters: Mapping[str, str | None]) -> list[str]:
    """Run ids of the current runs, one for each wanted value of *column*, alike in everything else that
    counts.

    Raises ``UsageError`` when there is no such set, or more than one.
    """
    from accelbench_assets.sqlkit.duck import connect

    # What must agree for a comparison to be about `column` alone.
    same = [c for c in ("model", "workload_id", "instance_type", "engine") if c != column]
    values = {k: v for k, v in filters.items() if v is not None and v != "any" and k != column}
    where = [
        "is_current",
        *(f"${k} in ({k}, family)" if k == "instance_type" else f"{k} = ${k}" for k in values),
    ]
    # Only names of columns are put into the text; what was typed goes as parameters.
    sql = (
        "select distinct run_id, model, workload_id, instance_type, family, engine, "  # noqa: S608
        "coalesce(load_finished_at, committed_at, requested_at) as finished from benchmark_results "
        f"where {' and '.join(where)} order by finished desc nulls last, run_id desc"
    )
    with connect(STATE.lake(), only=("benchmark_results",)) as db:
        found = rows(db, sql, values)
    sets: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in found:
        for name in (row[column], row["family"] if column == "instance_type" else row[column]):
            if name in wanted:
                sets.setdefault(tuple(row[c] for c in same), {}).setdefault(name, row["run_id"])
    complete = {key: runs for key, runs in sets.items() if len(runs) == len(wanted)}
    flag = "--engines" if column == "engine" else "--instances"
    if not complete:
        seen = sorted({str(row[column]) for row in found})
        raise UsageError(
            f"{flag}: there is no model and workload with a current run on each of {', '.join(wanted)}.",
            hint=f"Current runs exist for: {', '.join(seen) or 'none'}; `accelbench query` lists them.",
        )
    if len(complete) > 1:
        choices = "; ".join(
            " ".join(f"{c}={v}" for c, v in zip(same, key, strict=True)) for key in list(complete)[:4]
        )
        raise UsageError(
            f"{flag}: {len(complete)} sets of runs match: {choices}.",
            hint="Narrow with --model or --workload.",
        )
    (runs,) = complete.values()
    return [runs[name] for name in wanted]


def check_comparable(subjects: Sequence[RunResults], force: bool) -> None:
    """Refuse runs without results and, unless forced, runs of different workloads."""
    for subject in subjects:
        record = subject.record
        if not subject.steps:
            raise UsageError(
                f"Run {record['run_id']} ended as {record['status']} and has no results to compare."
            )
    kinds = {(s.record["workload_id"], s.record.get("workload_hash")) for s in subjects}
    if len(kinds) > 1 and not force:
        names = ", ".join(sorted({str(name) for name, _ in kinds}))
        what = names if len({name for name, _ in kinds}) > 1 else f"{names} with different content"
        raise UsageError(
            f"The runs have different workloads ({what}), so their figures mean different things.",
            hint="--force compares them all the same.",
        )
    if len(kinds) > 1:
        STATE.warn("the workloads differ: these figures mean different things.")
    for name in ("origin", "evidence_level", "hardware"):
        if len(values := sorted({str(s.record.get(name)) for s in subjects})) > 1:
            STATE.warn(f"{name} differs: {', '.join(values)}.")


def comparison(subjects: Sequence[RunResults]) -> dict[str, Any]:
    """The JSON document; ``values``, ``gates`` and ``ratios`` are in the order of ``subjects``."""
    costs = [cost_rows(subject) for subject in subjects]
    by_load = [{(s["load_kind"], s["load_value"]): s for s in subject.steps} for subject in subjects]
    loads = list(dict.fromkeys(load for steps in by_load for load in steps))
    table = []
    for load in loads:
        steps = [mapping.get(load) for mapping in by_load]
        for metric, q in QUANTILES:
            cells = [(s or {}).get("percentiles", {}).get(metric) or {} for s in steps]
            table.append(
                _row(load, f"{metric}_{q}", "ms", [c.get(q) for c in cells], [_gate(c, q) for c in cells])
            )
        for name, unit in RATES:
            table.append(_row(load, name, unit, [(s or {}).get(name) for s in steps], [None for _ in steps]))
        priced = [c.get((s or {}).get("step_index", -1), {}) for c, s in zip(costs, steps, strict=True)]
        values = [row.get(COST) for row in priced]
        table.append(_row(load, COST, "usd", values, [None for _ in steps]))
    return {
        "note": NOTE,
        "workload_ids": list(dict.fromkeys(s.record["workload_id"] for s in subjects)),
        "subjects": [
            {
                **_subject(letter, s.record),
                "verdict": worst_verdict(s.record),
                "cost_missing_reason": None if priced else missing_cost(s),
            }
            for letter, s, priced in zip(LETTERS, subjects, costs, strict=False)
        ],
        "rows": table,
    }


def _gate(cell: Mapping[str, Any], quantile: str) -> dict[str, Any]:
    return {"gate": cell.get(f"{quantile}_gate"), "needs_n": cell.get(f"{quantile}_needs_n")}


def _row(
    load: tuple[str, float], metric: str, unit: str, values: list[Any], gates: list[Any]
) -> dict[str, Any]:
    first = values[0]
    ratios = [v / first if v is not None and first else None for v in values]
    return {
        "load_kind": load[0],
        "load_value": load[1],
        "metric": metric,
        "unit": unit,
        "values": values,
        "gates": gates,
        "ratios": ratios,
    }


def _subject(letter: str, record: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        *(
            "run_id",
            "cell_key",
            "model_id",
            "model_revision",
            "quantization",
            "weight_dtype",
            "instance_type",
        ),
        *(
            "engine",
            "engine_version",
            "workload_id",
            "evidence_level",
            "origin",
            "hardware",
            "load_finished_at",
        ),
    )
    return {"label": letter, **{name: record.get(name) for name in names}}


def flat(document: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and columns of the CSV form: value_a, gate_a, ratio_a, value_b, …, run_id_a, run_id_b, …"""
    letters = [str(s["label"]).lower() for s in document["subjects"]]
    fields = ["load_kind", "load_value", "metric", "unit"]
    fields += [f"{what}_{letter}" for letter in letters for what in ("value", "gate", "ratio")]
    ids = {f"run_id_{letter}": s["run_id"] for letter, s in zip(letters, document["subjects"], strict=True)}
    fields += ids
    made = []
    for row in document["rows"]:
        line = {**ids, **{name: row[name] for name in fields[:4]}}
        for i, letter in enumerate(letters):
            line[f"value_{letter}"], line[f"ratio_{letter}"] = row["values"][i], row["ratios"][i]
            line[f"gate_{letter}"] = (row["gates"][i] or {}).get("gate")
        made.append(line)
    return made, fields


def show(document: Mapping[str, Any], subjects: Sequence[RunResults]) -> None:
    """The table: one line a metric and load, one column a run with its ratio."""
    out = console()
    for subject in document["subjects"]:
        weights = (
            subject["quantization"]
            if subject["quantization"] not in (None, "none")
            else subject["weight_dtype"]
        )
        engine, host = f"{subject['engine']} {subject['engine_version']}", subject["instance_type"]
        trust = f"{subject['evidence_level']} · {subject['origin']} · {subject['verdict']}"
        trust += f" · run {subject['run_id'][:13]}"
        model = f"{subject['model_id']} ({weights or '?'})"
        out.print(f"{subject['label']}  {engine} · {model} · {host} · {trust}", soft_wrap=True)
    out.print(
        f"workload {', '.join(document['workload_ids'])}; {NOTE}; ratios are against A",
        style="yellow",
        soft_wrap=True,
    )
    out.print()
    letters = [s["label"] for s in document["subjects"]]
    lines = []
    for row in document["rows"]:
        line = {"load": load_label(row["load_kind"], row["load_value"]), "metric": _title(row)}
        for i, letter in enumerate(letters):
            line[letter] = _value(row, i)
            if i:
                line[f"{letter}/A"] = "-" if row["ratios"][i] is None else f"x{number(row['ratios'][i])}"
        lines.append(line)
    columns = [Column("load", "load"), Column("metric", "metric"), Column("A", "A", "ms")]
    for letter in letters[1:]:
        columns += [Column(letter, letter, "ms"), Column(f"{letter}/A", f"{letter}/A", "rate")]
    write_table(columns, lines)
    for subject, results in zip(document["subjects"], subjects, strict=True):
        if not subject["cost_missing_reason"]:  # what stands beside each other may be priced differently
            out.print(
                f"$/1M out of {subject['label']}: {cost_line(results).removeprefix('cost: ')}", soft_wrap=True
            )
    for subject in document["subjects"]:
        if subject["cost_missing_reason"]:
            out.print(f"cost of {subject['label']}: none ({subject['cost_missing_reason']})", soft_wrap=True)


def _title(row: Mapping[str, Any]) -> str:
    names = {
        "output_tokens_per_s": "output tok/s",
        "requests_per_s": "req/s",
        "error_rate": "error rate",
        COST: "$/1M out",
    }
    if row["metric"] in names:
        return names[row["metric"]]
    metric, _, quantile = str(row["metric"]).rpartition("_")
    return f"{metric.upper()} {quantile} ms"


def _value(row: Mapping[str, Any], i: int) -> str:
    gate = row["gates"][i]
    if gate is None:
        return number(row["values"][i])
    return quantile_cell(
        {"q": row["values"][i], "q_gate": gate["gate"], "q_needs_n": gate["needs_n"]}, "q", compact=True
    )
