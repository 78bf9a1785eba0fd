"""``accelbench reap``: close runs whose orchestrator died, here and on the cluster.

Belongs here: one pass over both, and what it found as a table. A CronJob calls it: it needs no Dagster and no database.
Does not belong here: which run is dead and how it is removed (``launch.kube.reap``, ``lake.commit``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.output import Column, emit
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import AccelBenchError

if TYPE_CHECKING:
    from accelbench_assets.budget.base import Budget
    from accelbench_assets.lake.lake import Lake
    from accelbench_assets.launch.kube.client import Cluster

COLUMNS = (
    Column("run_id", "run"),
    Column("where", "where"),
    Column("why", "why"),
    Column("objects_removed", "removed", "int"),
    Column("objects_left", "left", "int"),
    Column("recorded", "recorded"),
    Column("status", "status", keep=1),
    Column("error", "trouble", wrap=True),
)
FIELDS = (
    *("run_id", "where", "why", "objects_removed", "objects_left", "recorded", "error", "status"),
    *("cell_key", "requested_at"),
)


def reap(
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="The cluster too, which is the default with the setting launcher = eks."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which runs would go; remove and write nothing.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0, max=3600, help="Seconds to wait until what was removed is gone."),
    ] = 60.0,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Close runs whose process died without a record: those of this machine (every `run` and `runs` does it too) and,
    with --cluster, those whose Lease went stale or whose deadline passed, with everything they left there.

    Exit 1 when something could not be removed, so that a CronJob shows it.
    """
    format_ = chosen(fmt, as_json)
    lake = STATE.lake()
    on_cluster = cluster or STATE.settings.launcher == "eks"
    rows: list[dict[str, Any]] = []
    trouble: list[tuple[str, str | None]] = []
    passes: list[Callable[[], list[dict[str, Any]]]]
    passes = [(lambda: dead_here(lake)) if dry_run else (lambda: _closed(lake))]
    if on_cluster:  # what costs money goes first
        passes.insert(
            0, (lambda: _would_go(_connect())) if dry_run else (lambda: _reaped(_connect(), lake, wait))
        )
    for one in passes:  # each for itself: a lake that is down keeps no node
        try:
            rows += one()
        except AccelBenchError as error:
            trouble.append((error.message, error.hint))
    unclosed = [row for row in rows if row["error"] and (row["objects_left"] or not row["recorded"])]
    trouble += [(row["error"], "The next `accelbench reap` tries it again.") for row in unclosed]
    emit(rows, COLUMNS, format_, fields=FIELDS, empty="Nothing to close.")
    if dry_run:
        STATE.note("dry run: nothing was removed.")
    if trouble:
        raise AccelBenchError(f"Not everything could be closed: {trouble[0][0]}", hint=trouble[0][1])


def _closed(lake: Lake) -> list[dict[str, Any]]:
    from accelbench_assets.cli.results import reap_dead

    return [_here(record, recorded=True) for record in reap_dead(lake)]


def dead_here(lake: Lake) -> list[dict[str, Any]]:
    """Attempts of this machine whose process is gone, as rows; nothing is written."""
    from accelbench_assets.launch.host import host_fingerprint
    from accelbench_assets.launch.locks import is_alive

    own = [one for one in lake.open_attempts() if one.get("host_fingerprint") == host_fingerprint()]
    return [_here(one, recorded=False) for one in own if not is_alive(one)]


def _here(record: dict[str, Any], *, recorded: bool) -> dict[str, Any]:
    found = {**dict.fromkeys(FIELDS), **{name: record[name] for name in FIELDS if name in record}}
    return {**found, "where": "here", "why": "process_died", "recorded": recorded}


def _connect() -> Cluster:
    from accelbench_assets.launch.kube.client import Cluster

    return Cluster.connect(STATE.settings.kube, agent="accelbench-reap")


def _reaped(cluster: Cluster, lake: Lake, wait_s: float) -> list[dict[str, Any]]:
    from accelbench_assets.launch.kube.reap import reap_cluster

    rows = []
    with _budget() as budget:
        done = reap_cluster(cluster, lake, budget, wait_s=wait_s, stale_s=STATE.settings.kube.lease_stale_s)
    for entry in done:
        row = {**dict.fromkeys(FIELDS), **{name: entry[name] for name in FIELDS if name in entry}}
        row |= {"run_id": entry["run_id"] or entry["run12"], "where": "cluster"}
        if entry["recorded"]:
            row["status"] = "infra_lost"
        rows.append(row)
    if rows and STATE.settings.database_url is None:
        STATE.note("No database_url is set: reservations of dead runs expire by themselves.")
    return rows


def _would_go(cluster: Cluster) -> list[dict[str, Any]]:
    from accelbench_assets.launch.kube.reap import decide, run_states
    from accelbench_assets.launch.kube.sweep import find

    verdicts = decide(run_states(find(cluster).by_run), cluster.server_time())
    return [
        {
            **dict.fromkeys(FIELDS),
            "run_id": one.state.run_id or one.state.run12,
            "where": "cluster",
            "why": one.why,
            "objects_removed": 0,
            "objects_left": len(one.state.objects),
            "recorded": False,
        }
        for one in verdicts
    ]


@contextlib.contextmanager
def _budget() -> Iterator[Budget | None]:
    """The ledger where a database is configured; without one, reservations expire with their Leases."""
    url = STATE.settings.database_url
    if url is None:
        yield None
        return
    from accelbench_assets.budget.ledger import PostgresBudget

    yield PostgresBudget(url.get_secret_value(), STATE.settings.budget)
