"""One attempt on the cluster of the environment, from registration to publication, in a process that can be killed.

Usage: ``python -m tests.faults.orchestrate REQUEST.json``. It waits for a line on stdin, so that whoever kills it knows
its process id before it does anything, then prints one JSON line an event. ``die_at`` in the request kills this very
process (SIGKILL) at an event of that phase, ``stop_at`` sends it SIGTERM there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelbench_assets.bench.request import LoadOptions, RunRequest
from accelbench_assets.bench.run import run_benchmark
from accelbench_assets.bench.summary import summarise_run
from accelbench_assets.budget.estimate import estimate
from accelbench_assets.budget.ledger import PostgresBudget
from accelbench_assets.errors import AccelBenchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.settings import Settings, load_settings
from accelbench_assets.sqlkit.publish import publish
from loadgen.workloads import from_document
from partitions.cell import BenchmarkCell


def make_request(document: Mapping[str, Any], settings: Settings) -> RunRequest:
    """The request of a JSON document: cell, workload, run_id, and optionally shards and deadline_s."""
    cell = BenchmarkCell.from_dict(document["cell"])
    deadline_s = float(document.get("deadline_s", 120.0))
    return RunRequest(
        cell=cell,
        workload=from_document(document["workload"]),
        model_id="meta-llama/Llama-3.1-8B-Instruct",
        evidence_level="demo",
        run_id=document["run_id"],
        seed=1,
        deadline_s=deadline_s,
        reproduce_command="a test",
        launcher_name="eks",
        home=settings.home,
        load=LoadOptions(shards=int(document.get("shards", 1))),
        estimate=estimate(
            cell.instance, instances=cell.deployment.replicas, region=settings.region, seconds=deadline_s
        ),
    )


def carry_out(document: Mapping[str, Any], on_event: Any, *, published: bool = True) -> dict[str, Any]:
    """The attempt, its derived rows and their publication."""
    settings = load_settings()
    lake = Lake.open(settings.lake_url)
    assert settings.database_url is not None
    dsn = settings.database_url.get_secret_value()
    request = make_request(document, settings)
    budget = PostgresBudget(dsn, settings.budget)
    record = run_benchmark(request, EksLauncher(settings, settings.lake_url), lake, on_event, budget)
    on_event("phase", "deriving", {"phase": "derive"})
    summarise_run(lake, record["run_id"])
    if published:
        on_event("phase", "publishing", {"phase": "publish"})
        publish(lake, dsn)
    return record


def main(path: str) -> int:
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(json.dumps({"kind": "pid", "pid": os.getpid()}), flush=True)
    sys.stdin.readline()

    def on_event(kind: str, message: str, data: Mapping[str, Any]) -> None:
        print(json.dumps({"kind": kind, "message": message, "data": dict(data)}, default=str), flush=True)
        phase = data.get("phase") if kind == "phase" else data.get("event")
        if phase is not None and phase == document.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if phase is not None and phase == document.get("stop_at"):
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        record = carry_out(document, on_event)
    except AccelBenchError as error:
        print(json.dumps({"kind": "error", "message": str(error)}), flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"kind": "result", "status": record["status"]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
