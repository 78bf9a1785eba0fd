"""What one attempt is asked to do.

Belongs here: the request as a value, and the errors an attempt ends with. Does not belong here: building one
from flags or partition keys (``cli``, ``defs``), carrying it out (``run``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import AccelBenchError
from loadgen.workloads import Workload
from partitions.cell import BenchmarkCell

if TYPE_CHECKING:
    from accelbench_assets.budget.base import Estimate


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How the load is driven where that changes no figure's meaning: what does is in the workload's document.

    ``workers`` generator processes share one schedule. ``dataset`` is the path of the user's own requests or trace,
    which the workload asks for. ``search_slo`` (ttft_ms, tpot_ms, e2e_ms, quantile) looks for the capacity under that
    objective instead of walking the workload's ladder. ``canary`` checks some answers after the last step.
    ``proxy_env`` names the environment variable that holds a proxy's URL. ``shards`` generators on hosts of their own
    share one schedule where the launcher has such hosts.
    """

    workers: int = 1
    dataset: str | None = None
    search_slo: Mapping[str, Any] | None = None
    canary: bool = False
    proxy_env: str | None = None
    shards: int = 1


def claimed_level(level: str, dataset: str | None) -> str:
    """The evidence level that a run may claim. The user's own file is no part of the cell's key, so results from two
    files would stand for each other: such a run claims no more than a smoke test and never ranks."""
    return "smoke" if dataset and level in ("standard", "publication") else level


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One attempt at one cell.

    ``deadline_s`` bounds everything from start to record. ``usd_per_hour`` is a declared price. ``home`` is
    the folder for locks and this run's working files. For a server somebody else runs, ``endpoint_url`` is
    set, its key is named by ``api_key_env``. ``requested_at`` is when the run was asked for, if that was before its
    process started; ``estimate`` is what a paid launch may cost at most. ``engine_image`` (with its digest) and
    ``model_commit`` (40 hex) are what a release really is, where the catalogs do not know it yet.
    """

    cell: BenchmarkCell
    workload: Workload
    model_id: str
    evidence_level: str
    run_id: str
    seed: int
    deadline_s: float
    reproduce_command: str
    launcher_name: str
    home: Path
    triggered_by: str = "user"
    dagster_run_id: str | None = None
    endpoint_url: str | None = None
    api_key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    served_model_name: str | None = None
    port: int | None = None
    suite_id: str | None = None
    trial_index: int = 0
    usd_per_hour: float | None = None
    load: LoadOptions = LoadOptions()
    requested_by: str | None = None
    requested_at: datetime | None = None
    trigger_ref: str | None = None
    estimate: Estimate | None = None
    engine_image: str | None = None
    model_commit: str | None = None


class RunFailed(AccelBenchError):
    """An attempt ended without a valid result; ``record`` is what stands in the lake."""

    def __init__(self, message: str, record: Mapping[str, Any], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.record = dict(record)


class RunVoid(RunFailed):
    """A validity rule voided the attempt: its samples are kept and never published."""
