"""What Dagster's own daemon makes of the release sensors: partitions that are added, runs that are launched once."""

import logging
import sys

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.sensor import execute_sensor_iteration

from tests.defs.sensor_ticks import DEFS, VLLM, instance, lake, older, sources, storage, watching
from tests.releases.sources import Sources

__all__ = ["DEFS", "instance", "sources", "storage", "watching"]  # the code location, and the fixtures


def iterate(workspace: WorkspaceProcessContext) -> None:
    """What the daemon does at each of its rounds, with the pauses of all sensors just over."""
    instance = workspace.instance
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        instance.update_instigator_state(
            state.with_data(
                SensorInstigatorData(
                    last_tick_timestamp=(data.last_tick_timestamp or 0) - 7200,
                    last_run_key=data.last_run_key,
                    min_interval=data.min_interval,
                    cursor=older(data.cursor),
                    last_tick_start_timestamp=(data.last_tick_start_timestamp or 0) - 7200,
                    last_sensor_start_timestamp=data.last_sensor_start_timestamp,
                    sensor_type=data.sensor_type,
                )
            )
        )
    for _ in execute_sensor_iteration(workspace, logging.getLogger("daemon"), None, None):
        pass


def test_the_daemon_adds_the_partition_and_launches_the_run_once(
    instance: dg.DagsterInstance, sources: Sources, watching: pytest.MonkeyPatch
) -> None:
    watching.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_TICK", "2")
    watching.setenv("ACCELBENCH_WATCH__MAX_RUNS_PER_MONTH", "2")
    place = LoadableTargetOrigin(executable_path=sys.executable, module_name=__name__, attribute="DEFS")
    target = InProcessTestWorkspaceLoadTarget(InProcessCodeLocationOrigin(place))
    with WorkspaceProcessContext(instance, target) as workspace:
        iterate(workspace)
        assert instance.get_runs() == []
        sources.release("0.34.0")
        for _ in range(3):
            iterate(workspace)
    check_launched(instance)


def check_launched(instance: dg.DagsterInstance) -> None:
    runs = instance.get_runs()
    assert len(runs) == 2
    for run in runs:
        key = run.tags["dagster/partition"]
        assert "~vllm-0.34.0~" in key
        cell = lake().find_cell(key)
        assert cell is not None
        assert instance.has_dynamic_partition(f"cells_{cell.family}", key)
        assert run.tags["dagster/sensor_name"] == VLLM
        assert {k.to_user_string() for k in run.asset_selection or ()} == {
            f"raw_samples_{cell.family}",
            f"run_percentiles_{cell.family}",
        }
        # It came as far as its launcher, which is switched off here.
        failures = [event.dagster_event for event in instance.all_logs(run.run_id) if event.is_dagster_event]
        texts = " ".join(str(e.step_failure_data) for e in failures if e is not None and e.is_step_failure)
        assert "rented machines" in texts, [
            str(e.dagster_event or e.user_message)[:1500] for e in instance.all_logs(run.run_id)
        ]
