"""``accelbench cells list | show | sync | coverage``: what there is to measure, and how far it got.

Belongs here: listing cells of suites and of the lake's registry, and adding a suite's cells.
Does not belong here: expansion (``partitions.matrix``), adding partitions (the child, ``defs``), how the grid is shown
(``coverage``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.coverage import coverage
from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
    near,
)
from accelbench_assets.cli.output import Column, console, emit
from accelbench_assets.cli.state import STATE, home
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from partitions.catalog import Suite
    from partitions.cell import BenchmarkCell

app = typer.Typer(
    help="What there is to measure: list, show, sync, coverage.", no_args_is_help=True, rich_markup_mode=None
)
app.command("coverage")(coverage)

COLUMNS = (
    Column("cell_id", "cell id"),
    Column("model", "model"),
    Column("instance", "instance"),
    Column("engine", "engine", keep=1),
    Column("engine_version", "version", keep=5),
    Column("label", "deployment", keep=2),
    Column("workload", "workload", keep=4),
    Column("suite", "suite", keep=7),
    Column("state", "state"),
)
ORIGINS = ("measured", "simulated", "external", "estimated")
STATES = (*ORIGINS, "failed", "never_run")
FIELDS = (
    *("cell_key", "cell_id", "family", "model", "revision", "instance", "engine", "engine_version", "label"),
    *("workload", "suite", "registered", "state", "last_run_id"),
)
SuiteOption = Annotated[str | None, typer.Option("--suite", help="Only cells of this suite.")]


@app.command("list")
def list_cells(
    suite: SuiteOption = None,
    model: Annotated[str | None, typer.Option("--model", help="Only this model.")] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Only this instance type or family.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Only this engine.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", "--status", help="Only measured, simulated, failed or never_run."),
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the cells of all suites and those registered in the lake, with what became of them."""
    format_ = chosen(fmt, as_json)
    if state is not None and state not in STATES:
        raise UsageError(f"--state: {state!r} is not one of {', '.join(STATES)}.")
    rows = [
        row
        for row in cell_rows()
        if (suite is None or suite == row["suite"])
        and (model is None or model == row["model"])
        and (instance is None or instance in (row["instance"], row["family"]))
        and (engine is None or engine == row["engine"])
        and (state is None or state == row["state"])
    ]
    if suite is not None:
        chosen_suite(suite)
    emit(rows, COLUMNS, format_, fields=FIELDS, empty="No cell matches.")
    if format_ is Format.table and rows:
        STATE.note(f"{len(rows)} cells; `accelbench cells show CELL_ID` shows one with its key.")


def chosen_suite(name: str) -> Suite:
    """The suite of this name; ``UsageError`` with near names."""
    from partitions.catalog import load_suites

    suites = load_suites()
    if name not in suites:
        raise UsageError(f"--suite: {name!r} is not a suite. {near(name, list(suites))}")
    return suites[name]


def expanded(suite: Suite) -> tuple[BenchmarkCell, ...]:
    """The suite's cells that can fit; those of an engine that this machine lacks are left out."""
    from accelbench_assets.engines.registry import suite_tokens
    from partitions.matrix import explain

    tokens = suite_tokens(STATE.settings.home)
    return tuple(one.cell for one in explain(suite, resolve=tokens) if one.cell is not None)


def cell_rows() -> list[dict[str, Any]]:
    """All cells by key, suites first, then what is only registered; states by attempts alone."""
    from accelbench_assets.lake.registry import CellEntry, read_entries
    from partitions.catalog import load_suites

    lake = STATE.lake()
    registered = {entry.cell_key: entry for entry in read_entries(lake.storage)}
    runs: dict[str, list[dict[str, Any]]] = {}
    for record in lake.run_records():
        runs.setdefault(str(record["cell_key"]), []).append(record)
    suites: dict[str, str] = {}
    cells: dict[str, CellEntry] = {}
    for name, suite in load_suites().items():
        for cell in expanded(suite):
            entry = CellEntry.of("", cell)
            cells.setdefault(entry.cell_key, entry)
            suites.setdefault(entry.cell_key, name)
    rows = []
    for key, entry in {**cells, **registered}.items():
        attempts = runs.get(key, [])
        origins = {str(run["origin"]) for run in attempts if run["status"] == "succeeded"}
        state = next((o for o in ORIGINS if o in origins), "failed" if attempts else "never_run")
        rows.append(
            {
                **entry.parts(),
                "suite": suites.get(key),
                "registered": key in registered,
                "state": state,
                "last_run_id": attempts[0]["run_id"] if attempts else None,
            }
        )
    return rows


def registered_cell(wanted: str) -> BenchmarkCell:
    """The registered cell of this key, id, or beginning of an id. Raises ``UsageError`` naming ``--cell``."""
    from accelbench_assets.lake.registry import read_entries
    from partitions.cell import CellError

    lake = STATE.lake()
    try:
        if "~" in wanted and (cell := lake.find_cell(wanted)) is not None:
            return cell
    except CellError as error:
        raise UsageError(f"--cell: {error}.") from None
    matching = [one for one in read_entries(lake.storage) if one.cell_id.startswith(wanted.lower())]
    if len(matching) != 1:
        what = "matches no registered cell" if not matching else f"matches {len(matching)} cells"
        raise UsageError(f"--cell: {wanted!r} {what}.", hint="`accelbench cells list` lists them.")
    return matching[0].cell()


@app.command("show")
def show_cell(
    cell: Annotated[
        str, typer.Argument(metavar="CELL", help="A cell's key, or its id (12 hex) or the beginning of it.")
    ],
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one cell: every part of its key, its deployment, its runs."""
    format_ = chosen(fmt, as_json)
    found = [row for row in cell_rows() if cell == row["cell_key"] or row["cell_id"].startswith(cell.lower())]
    if len(found) != 1:
        what = "No cell" if not found else f"{len(found)} cells begin with"
        raise UsageError(f"{what} {cell!r}.", hint="`accelbench cells list` lists them.")
    row = found[0]
    document = {**row, "deployment": _deployment(row), "runs": _runs_of(row["cell_id"])}
    if format_ is Format.json:
        from accelbench_assets.cli.output import write_json

        write_json(document)
        return
    if format_ is Format.csv:
        emit([row], COLUMNS, format_, fields=FIELDS)
        return
    out = console()
    for name in FIELDS:
        if row[name] is not None:
            out.print(f"{name + ':':16}{row[name]}", soft_wrap=True)
    out.print("deployment:", soft_wrap=True)
    for name, value in document["deployment"].items():
        out.print(f"  {name + ':':22}{value}", soft_wrap=True)
    out.print()
    emit(
        document["runs"], [Column("run_id", "run"), Column("status", "status")], format_, empty="No runs yet."
    )


def _deployment(row: dict[str, Any]) -> dict[str, Any]:
    cell = STATE.lake().find_cell(row["cell_key"])
    if cell is None:
        cell = next(c for c in expanded(chosen_suite(row["suite"])) if c.key_text == row["cell_key"])
    return cell.deployment.to_dict()


def _runs_of(cell_id: str) -> list[dict[str, Any]]:
    keys = ("run_id", "status", "requested_at", "evidence_level", "origin")
    return [{key: run.get(key) for key in keys} for run in STATE.lake().run_records(cell_id=cell_id)]


@app.command("sync")
def sync(
    suite: Annotated[str, typer.Option("--suite", help="The suite whose cells to add.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be added, change nothing.")
    ] = False,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Register a suite's cells in the lake and as partitions of their family. Never removes any."""
    format_ = chosen(fmt, as_json)
    wanted = expanded(chosen_suite(suite))
    from accelbench_assets.lake.registry import read_entries

    known = {entry.cell_key for entry in read_entries(STATE.lake().storage)}
    rows = [
        {
            "suite": suite,
            "family": family,
            "cells": sum(c.family == family for c in wanted),
            "new": sum(c.family == family and c.key_text not in known for c in wanted),
        }
        for family in sorted({cell.family for cell in wanted})
    ]
    if not dry_run:
        from accelbench_assets.cli.child import run_child
        from accelbench_assets.cli.progress import ProgressView

        STATE.lake().check_writable()
        end = run_child(
            ["-m", "accelbench_assets.defs.tasks", "sync", "--suite", suite],
            view=ProgressView(()),
            log=home() / "logs" / "sync.log",
        )
        if end.interrupted:
            raise typer.Exit(130)
        if error := end.failure("The sync"):
            raise error
        for row in rows:
            row["new"] = end.data.get("added", {}).get(row["family"], row["new"])
    columns = [Column("family", "family"), Column("cells", "cells", "int"), Column("new", "new", "int")]
    emit(rows, columns, format_, fields=("suite", "family", "cells", "new"))
    if dry_run:
        STATE.note("dry run: nothing was added.")
