"""The fourth of five rings that keep a rented machine from being forgotten: what Dagster saw end is taken away.

Belongs here: run-status sensors that remove what a run left in the cluster when its process could not. Does not belong
here: removing (``launch.kube.reap``), the other rings: the launcher's own ``finally``, the owner of all objects,
deadlines, and the reaper, which needs no Dagster.

The record is the attempt's own affair or the reaper's: a run that Dagster calls ended may still be writing it.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.errors import AccelBenchError

WAIT_S = 20.0


def attempts_of(open_attempts: Sequence[dict[str, Any]], dagster_run_id: str) -> list[str]:
    """Run ids of the attempts in a cluster that *dagster_run_id* began and nobody has ended."""
    return [
        str(a["run_id"])
        for a in open_attempts
        if a.get("dagster_run_id") == dagster_run_id and a.get("cluster")
    ]


def take_away(accelbench: AccelBench, dagster_run_id: str) -> str:
    """Remove what the runs of *dagster_run_id* left; one sentence on what was found."""
    settings = accelbench.settings()
    if settings.launcher != "eks":
        return "Nothing runs on rented machines here (launcher is not eks)."
    left = attempts_of(accelbench.lake().open_attempts(), dagster_run_id)
    if not left:
        return "Every attempt of the run has ended by itself."
    from accelbench_assets.launch.kube.client import Cluster
    from accelbench_assets.launch.kube.reap import remove_run

    cluster = Cluster.connect(settings.kube)
    stays = [name for run_id in left for name in remove_run(cluster, run_id, wait_s=WAIT_S)]
    if stays:
        return f"Not gone yet: {', '.join(stays)}; the reaper goes on with it."
    return f"Removed what {', '.join(left)} had left in the cluster; the reaper writes the record."


def _sensor(status: dg.DagsterRunStatus, name: str) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        run_status=status,
        name=name,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Takes away what a benchmark that ended badly left in the cluster.",
    )
    def sensor(context: dg.RunStatusSensorContext, accelbench: AccelBench) -> dg.SkipReason:
        try:
            return dg.SkipReason(take_away(accelbench, context.dagster_run.run_id))
        except AccelBenchError as error:
            # The next ring does not depend on this one: the reaper comes every five minutes.
            context.log.warning(str(error))
            return dg.SkipReason(f"Left to the reaper: {error.message}")

    return sensor


SENSORS: list[dg.SensorDefinition] = [
    _sensor(dg.DagsterRunStatus.FAILURE, "teardown_after_failure"),
    _sensor(dg.DagsterRunStatus.CANCELED, "teardown_after_cancel"),
]
