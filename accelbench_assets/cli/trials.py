"""``accelbench trials``: the runs of a cell taken together, and two cells compared trial by trial.

Belongs here: choosing the cells and laying out what ``bench.trials`` found.
Does not belong here: estimators and tests (``bench``), single runs side by side (``compare``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.output import Column, console, number, write_csv, write_json, write_table
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from accelbench_assets.bench.trials import Trials
    from accelbench_assets.lake.lake import Lake

POOLED_FIELDS = (
    *("cell_id", "origin", "evidence_level", "load_kind", "load_value", "metric", "quantile", "unit"),
    *("value", "ci_low", "ci_high", "gate", "needs_n", "between_trials", "n", "n_eff", "trial_values"),
)
COMPARED_FIELDS = (
    *("cell_id_a", "cell_id_b", "origin_a", "origin_b", "evidence_level_a", "evidence_level_b"),
    *("load_kind", "load_value", "metric", "trials_a", "trials_b", "ratio", "ci_low", "ci_high"),
    *("p", "p_adjusted", "verdict", "trials_needed"),
)
TRUST = ("cell_id", "origin", "evidence_level")
CELL_HELP = "A cell's key, or its id (12 hex) or the beginning of it."


def trials(
    cell: Annotated[str, typer.Argument(metavar="CELL", help=CELL_HELP)],
    other: Annotated[
        str | None, typer.Argument(metavar="[CELL_B]", help="A second cell, compared with the first.")
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The trials of a cell as one result: pooled figures with intervals, and what every trial said.

    With a second cell: whether it is slower or faster than the first, judged by trials, never by requests. Make trials
    with `accelbench run --trials N`. JSON is one object: cells, rows.
    """
    format_ = chosen(fmt, as_json)
    from accelbench_assets.bench.trials import compare_cells, pooled_rows, trials_of

    lake = STATE.lake()
    found = [trials_of(lake, cell_id_of(lake, name)) for name in (cell, other) if name is not None]
    if len(found) == 2 and found[0].cell_id == found[1].cell_id:
        raise UsageError("trials: both cells are the same one.")
    if other is None:
        trust = {name: getattr(found[0], name) for name in TRUST}
        rows = [{**trust, **row} for row in pooled_rows(lake, found[0])]
    else:
        for name in TRUST[1:]:
            if len(seen := sorted({getattr(one, name) for one in found})) > 1:
                STATE.warn(f"{name} differs: {', '.join(seen)}.")
        trust = {
            f"{name}_{s}": getattr(one, name) for s, one in zip("ab", found, strict=True) for name in TRUST
        }
        rows = [{**trust, **row} for row in compare_cells(lake, *found)]
    if format_ is Format.json:
        write_json({"cells": [described(one) for one in found], "rows": rows})
    elif format_ is Format.csv:
        write_csv(rows, list(POOLED_FIELDS if other is None else COMPARED_FIELDS))
    else:
        _show(found, rows)


def cell_id_of(lake: Lake, name: str) -> str:
    """The id of the one cell with this key, id or beginning of an id that has runs. Raises ``UsageError``."""
    known = {str(r["cell_id"]): str(r["cell_key"]) for r in lake.run_records()}
    matching = [one for one, key in known.items() if name == key or one.startswith(name.lower())]
    if len(matching) != 1:
        what = "No cell with runs is" if not matching else f"{len(matching)} cells begin with"
        raise UsageError(f"{what} {name!r}.", hint="`accelbench cells list` lists them.")
    return matching[0]


def described(one: Trials) -> dict[str, Any]:
    """A cell's trials as JSON."""
    return {
        "cell_id": one.cell_id,
        "cell_key": one.cell_key,
        "evidence_level": one.evidence_level,
        "origin": one.origin,
        "trials": len(one.run_ids),
        "run_ids": list(one.run_ids),
        "left_out": dict(one.left_out),
    }


def _show(found: Sequence[Trials], rows: Sequence[Mapping[str, Any]]) -> None:
    out = console()
    for letter, one in zip("AB" if len(found) > 1 else ("",), found, strict=False):
        left = (
            "; left out: " + ", ".join(f"{n} {why}" for why, n in one.left_out.items())
            if one.left_out
            else ""
        )
        out.print(
            f"{letter + '  ' if letter else ''}{one.cell_key}\n"
            f"{len(one.run_ids)} trials, {one.origin}, evidence level {one.evidence_level}{left}",
            soft_wrap=True,
        )
    out.print()
    if len(found) > 1:
        _show_compared(rows)
        return
    lines = [
        {
            "load": row["load"],
            "metric": f"{row['metric']} {row['quantile'] or ''}".strip(),
            "value": _value(row),
            "interval": _interval(row),
            "trials": " ".join(number(value) for value in row["trial_values"]),
        }
        for row in rows
        if row["quantile"] != "p999"
    ]
    columns = [Column("load", "load"), Column("metric", "metric"), Column("value", "pooled")]
    columns += [Column("interval", "95 % interval"), Column("trials", "each trial", keep=1)]
    write_table(columns, lines)


def _show_compared(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        console().print("The cells have no load in common: nothing can be compared.")
        return
    lines = [
        {
            "load": row["load"],
            "metric": row["metric"],
            "ratio": "-" if row["ratio"] is None else number(row["ratio"]),
            "interval": _interval(row),
            "p": number(row["p_adjusted"]),
            "verdict": row["verdict"].replace("_", " "),
            "needed": "-" if row["trials_needed"] is None else str(row["trials_needed"]),
        }
        for row in rows
    ]
    columns = [Column("load", "load"), Column("metric", "metric"), Column("ratio", "B / A")]
    columns += [Column("interval", "95 % interval"), Column("p", "p (Holm)"), Column("verdict", "verdict")]
    columns += [Column("needed", "trials a side", keep=1)]
    write_table(columns, lines)
    console().print(
        "error_rate: the difference B - A. A trial is one run; requests are never pooled for a test."
    )


def _value(row: Mapping[str, Any]) -> str:
    from accelbench_assets.cli.results import quantile_cell

    if row["gate"] is None:
        return number(row["value"])
    cell = {"q": row["value"], "q_gate": row["gate"], "q_needs_n": row["needs_n"]}
    return quantile_cell(cell, "q", compact=True)


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["ci_low"], row["ci_high"]
    if low is None:
        return "-"
    mark = " between trials" if row.get("between_trials") else ""
    return f"{number(low)} to {'> timeout' if high is None else number(high)}{mark}"
