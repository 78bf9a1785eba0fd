"""What the command line starts as a child process: a run through the asset graph, a sync of cells, a refresh.

Belongs here: materialising on the persistent instance and telling the parent what happened, as JSON lines on stdout.
Does not belong here: parsing a user's flags (``cli``), doing the work (assets).

The child ends with its parent: when stdin, held open by the parent, reaches its end, the child interrupts itself, so a
killed command line cancels the run in good order.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from accelbench_assets.dagster_home import prepare_dagster_home
from accelbench_assets.defs import catalog, estimates, events, pricing, publish
from accelbench_assets.defs.benchmarks import asset_suffix, cells_partitions
from accelbench_assets.defs.pools import apply_pool_limits
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.errors import AccelBenchError, UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.scrub import scrub
from accelbench_assets.settings import load_settings
from partitions.cell import BenchmarkCell
from partitions.matrix import explain

CONFIG_FIELDS = (
    "run_id",
    "seed",
    "deadline_s",
    "endpoint_url",
    "api_key_env",
    "headers",
    "served_model_name",
    "model_id",
    "port",
    "usd_per_hour",
    "reproduce_command",
    "suite_id",
    "trial_index",
    "requested_by",
)


FEW_KEYS = 20


def _follow_parent() -> None:
    """Interrupt this process when the parent that holds our stdin goes away."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


class Session:
    """One Dagster instance, one set of assets; every call is one run on the instance."""

    def __init__(self) -> None:
        from accelbench_assets.definitions import all_assets

        self.settings = load_settings()
        os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(self.settings))
        self.instance = dg.DagsterInstance.get()
        apply_pool_limits(self.instance, self.settings.pools.limits)
        self.lake = Lake.open(self.settings.lake_url)
        self.assets = all_assets()

    def materialize(
        self, *names: str, partition: str | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        """Materialise the named assets with their checks; ``AccelBenchError`` carries the failed step's sentence."""
        from accelbench_assets.defs.checks import CHECKS

        chosen = [
            *self.assets,
            *[c for c in CHECKS if any(k.asset_key.path[-1] in names for k in c.check_keys)],
        ]
        result = dg.materialize(
            chosen,
            selection=dg.AssetSelection.assets(*names),
            partition_key=partition,
            instance=self.instance,
            resources={"accelbench": AccelBench()},
            run_config={"ops": {k: {"config": v} for k, v in (config or {}).items()}},
            raise_on_error=False,
        )
        if not result.success:
            raise AccelBenchError(_failure_sentence(result))

    def register(self, cells: Sequence[BenchmarkCell]) -> dict[str, int]:
        """Add *cells* to the lake's registry and to their family's partitions; returns new keys by family."""
        added: dict[str, int] = {}
        self.lake.put_cells(cells)
        for family in sorted({cell.family for cell in cells}):
            keys = [cell.key_text for cell in cells if cell.family == family]
            name = cells_partitions(family).name or ""
            if len(keys) <= FEW_KEYS:  # asking for each costs nothing beside reading thousands
                new = [key for key in keys if not self.instance.has_dynamic_partition(name, key)]
            else:
                known = set(self.instance.get_dynamic_partitions(name))
                new = [key for key in keys if key not in known]
            if new:
                self.instance.add_dynamic_partitions(name, new)
            added[family] = len(new)
        return added

    def prices(self, declared: Mapping[str, float]) -> None:
        """Today's price snapshot with the *declared* USD per hour by instance."""
        self.materialize(
            "pricing_snapshots",
            partition=pricing.today(),
            config={"pricing_snapshots": {"declared_usd_per_hour": dict(declared), "ask": False}},
        )

    def refresh(self, declared: Mapping[str, float]) -> None:
        """Bring facts, prices, marts, the published catalog and the site up to date."""
        self.prices(declared)
        names = [asset.key.path[-1] for asset in [*catalog.ASSETS, *estimates.ASSETS, *publish.ASSETS]]
        self.materialize(*names, *publish.MARTS)


def _failure_sentence(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.error is None:
                continue
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            cause = failure.error.cause or failure.error
            return scrub(f"Step {event.step_key} failed: {cause.message.strip()}")
    checks = [e.check_name for e in result.get_asset_check_evaluations() if not e.passed]
    return (
        f"Asset checks failed: {', '.join(checks)}."
        if checks
        else "The Dagster run failed without an event that says why."
    )


def run(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """One benchmark with everything that follows from it; returns the runs record."""
    session = Session()
    cell = BenchmarkCell.from_dict(request["cell"])
    session.register([cell])
    if request.get("model_commit"):
        session.lake.put_cell_artefacts(cell.key_text, {"model_commit": request["model_commit"]})
    suffix = asset_suffix(cell.family)
    config = {k: request[k] for k in CONFIG_FIELDS if request.get(k) is not None}
    config["workload_json"] = json.dumps(request["workload"])
    if request.get("load"):
        config["load_json"] = json.dumps(request["load"])
    session.materialize(
        f"raw_samples_{suffix}",
        f"run_percentiles_{suffix}",
        partition=cell.key_text,
        config={f"raw_samples_{suffix}": config},
    )
    usd = request.get("usd_per_hour")
    declared = {cell.instance: usd} if usd else {}
    if request.get("publish", True):
        session.refresh(declared)
    elif declared:  # a price that was declared is kept, whatever else waits for the next publication
        session.prices(declared)
    record = session.lake.run_record(request["run_id"])
    if record is None:
        raise AccelBenchError(f"Run {request['run_id']} left no record in {session.lake.url}.")
    return record


def sync(suite_name: str) -> Mapping[str, Any]:
    """Register the cells of a suite; returns new keys by family."""
    from accelbench_assets.engines.registry import suite_tokens
    from partitions.catalog import load_suites

    suites = load_suites()
    if suite_name not in suites:
        raise UsageError(f"--suite: {suite_name!r} is not one of {', '.join(sorted(suites))}.")
    tokens = suite_tokens(load_settings().home)
    cells = [one.cell for one in explain(suites[suite_name], resolve=tokens) if one.cell is not None]
    return {"suite": suite_name, "cells": len(cells), "added": Session().register(cells)}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m accelbench_assets.defs.tasks``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="accelbench_assets.defs.tasks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("--request", type=Path, required=True)
    commands.add_parser("sync").add_argument("--suite", required=True)
    commands.add_parser("refresh")
    commands.add_parser("pools")
    arguments = parser.parse_args(argv)
    events.stream_to_stdout()
    _follow_parent()
    run_id = None
    try:
        data: Mapping[str, Any]
        if arguments.command == "run":
            request = json.loads(arguments.request.read_text(encoding="utf-8"))
            run_id = request["run_id"]
            record = run(request)
            data = {"run_id": run_id, "status": record["status"], "record": record}
        elif arguments.command == "sync":
            data = sync(arguments.suite)
        elif arguments.command == "pools":
            data = {"pools": Session().settings.pools.limits}  # a session applies them
        else:
            Session().refresh({})
            data = {"status": "succeeded"}
    except AccelBenchError as error:
        hint = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code, "run_id": run_id}
        events.emit("error", error.message, hint)
        return error.exit_code
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        events.emit("error", "Interrupted.", {"message": "Interrupted.", "exit_code": 130, "run_id": run_id})
        return 130
    events.emit("result", "done", data)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Dagster and the storage libraries keep threads; nothing of ours is left to wait for.
    os._exit(code)
