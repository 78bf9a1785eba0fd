"""``accelbench cells coverage``: the whole grid, with what is known of every cell and why.

Belongs here: the command's flags and how the grid is shown. Does not belong here: the states
(``sql/marts/coverage.sql``), estimates (``sizing``).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
)
from accelbench_assets.cli.output import LONG_TABLE, Column, emit, plain, write_json
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import LakeError, UsageError

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

STATES = (
    *("measured", "simulated", "external", "estimated", "does_not_fit", "not_sold", "no_capacity"),
    *("infra_lost", "failed", "never_run"),
)
FIELDS = (
    *("cell_key", "cell_id", "family", "model", "revision", "instance", "engine", "engine_version", "label"),
    *("workload", "state", "basis", "reason", "region", "attempts", "succeeded", "failure_code"),
    *("latest_status", "latest_failure_code", "latest_run_id", "latest_at"),
)


def columns(rows: int) -> tuple[Column, ...]:
    """Columns of a table of *rows*: a reason of several lines only where that is soon laid out."""
    return (
        Column("cell_id", "cell id", keep=4),
        Column("model", "model"),
        Column("instance", "instance"),
        Column("label", "deployment", keep=2),
        Column("workload", "workload", keep=3),
        Column("state", "state"),
        Column("basis", "basis", keep=5),
        Column("attempts", "attempts", "int", keep=6),
        Column("reason", "reason", keep=7, wrap=rows <= LONG_TABLE),
    )


def coverage(
    model: Annotated[str | None, typer.Option("--model", help="Only this model.")] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Only this instance type or family.")
    ] = None,
    state: Annotated[str | None, typer.Option("--state", help=f"Only one of {', '.join(STATES)}.")] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The whole grid: every registered cell with its state, what that stands on, and the reason.

    A cell that was never run is sized now: it does not fit, is not sold in the region of the settings, or has an
    estimate, which is never counted as measured. JSON is one object: states (how many cells have each), rows.
    """
    format_ = chosen(fmt, as_json)
    if state is not None and state not in STATES:
        raise UsageError(f"--state: {state!r} is not one of {', '.join(STATES)}.")
    rows = [
        row
        for row in grid_rows(STATE.lake(), STATE.settings.region)
        if (model is None or model == row["model"])
        and (instance is None or instance in (row["instance"], row["family"]))
        and (state is None or state == row["state"])
    ]
    counts = Counter(row["state"] for row in rows)
    states = {name: counts[name] for name in STATES if counts[name]}
    if format_ is Format.json:
        kept = [{name: plain(row.get(name)) for name in FIELDS} for row in rows]
        write_json({"states": states, "rows": kept})
        return
    said = ", ".join(f"{count:,} {name}" for name, count in states.items())
    title = f"{len(rows):,} cell{'' if len(rows) == 1 else 's'}: {said}"
    emit(rows, columns(len(rows)), format_, fields=FIELDS, title=title, empty="No registered cell matches.")
    if format_ is Format.table and not rows:
        STATE.note("`accelbench cells sync --suite NAME` registers the cells of a suite.")


def grid_rows(lake: Lake, region: str) -> list[dict[str, Any]]:
    """Rows of the mart ``coverage``, by its own query over today's attempts and estimates of this moment for *region*.

    Nothing is written. Raises ``LakeError`` when the lake cannot be read.
    """
    from datetime import UTC, datetime

    import duckdb

    from accelbench_assets.sizing.grid import TABLE, look
    from accelbench_assets.sqlkit.duck import connect
    from accelbench_assets.sqlkit.files import sql_file

    fresh = look(lake, region, datetime.now(UTC)).fresh
    with contextlib.closing(connect(lake, read_only=False, only=("runs", "cells", TABLE))) as db:
        try:
            db.register("fresh", fresh)
            db.execute(
                f"create temp view newest as select * from {TABLE} "  # noqa: S608 - a name of ours
                "where cell_id not in (select cell_id from fresh) union all by name select * from fresh"
            )
            db.execute(f"create or replace temp table {TABLE} as select * from newest")  # noqa: S608
            rows: list[dict[str, Any]] = (
                db.sql(sql_file("marts", "coverage").text).to_arrow_table().to_pylist()
            )
        except duckdb.Error as error:
            raise LakeError(f"The grid could not be read: {str(error).splitlines()[0]}") from None
    return rows
