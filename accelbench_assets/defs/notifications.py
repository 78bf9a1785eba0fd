"""Run-status sensors: whoever wants to know hears how a benchmark ended.

Belongs here: which Dagster runs are told of, what their events say. Does not belong here: the runs record, wording and
sending (``notify``).

Only runs that materialise ``raw_samples_*`` are told of, those of the command line too: they have no code location,
so all locations are watched. A tick tells of one run: a minute is all it has, and a mail server may take its time.
An error of a channel is logged and not raised: the tick would be repeated, and another channel's receivers hear twice.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.notify.message import Ended
from accelbench_assets.notify.send import SETTINGS_HINT, channels
from accelbench_assets.notify.tell import tell
from accelbench_assets.scrub import scrub

PREFIX = "raw_samples_"
INTERVAL_S = 30
_STATUSES = {
    "success": dg.DagsterRunStatus.SUCCESS,
    "failure": dg.DagsterRunStatus.FAILURE,
    "canceled": dg.DagsterRunStatus.CANCELED,
}


def _notifier(outcome: str) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        run_status=_STATUSES[outcome],
        name=f"notify_{outcome}",
        monitor_all_code_locations=True,
        minimum_interval_seconds=INTERVAL_S,
        # Cheap where nothing is set up: nothing is read but the settings.
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells webhook and mail of benchmarks that ended in {outcome}, if any is set up.",
    )
    def notify(context: dg.RunStatusSensorContext, accelbench: AccelBench) -> dg.SkipReason | None:
        if not is_benchmark(context):
            return None
        settings = accelbench.settings().notify
        if not channels(settings):
            return dg.SkipReason(f"Nobody is told: {SETTINGS_HINT}.")
        if outcome not in settings.on:
            return dg.SkipReason(f"Nobody is told: notify.on does not hold {outcome}.")
        deliveries = tell(
            ended(context, outcome), accelbench.lake, settings, warn=lambda text: context.log.warning(text)
        )
        for delivery in deliveries:
            if delivery.error:
                context.log.error(str(delivery))
        return dg.SkipReason(f"Run {context.dagster_run.run_id}: {'; '.join(map(str, deliveries))}.")

    return notify


def is_benchmark(context: dg.RunStatusSensorContext) -> bool:
    """Whether the run was to materialise raw samples, whatever became of it."""
    chosen = context.dagster_run.asset_selection
    if chosen:  # none or an empty one: all assets of the job, which only its events name
        return any(key.path[-1].startswith(PREFIX) for key in chosen)
    return any(
        event.asset_key is not None and event.asset_key.path[-1].startswith(PREFIX)
        for event in _events(context, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    )


def ended(context: dg.RunStatusSensorContext, outcome: str) -> Ended:
    """The run's facts: attempts named by its materialisation or its config, and what the failed step said."""
    run = context.dagster_run
    return Ended(
        dagster_run_id=run.run_id,
        outcome=outcome,
        partition_key=run.tags.get("dagster/partition"),
        run_ids=tuple(dict.fromkeys(_run_ids(context))),
        error=next(_errors(context), None),
    )


def _events(context: dg.RunStatusSensorContext, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
    records = context.instance.get_records_for_run(context.dagster_run.run_id, of_type=kind).records
    return [r.event_log_entry.dagster_event for r in records if r.event_log_entry.dagster_event is not None]


def _run_ids(context: dg.RunStatusSensorContext) -> Iterator[str]:
    for event in _events(context, dg.DagsterEventType.ASSET_MATERIALIZATION):
        metadata = event.step_materialization_data.materialization.metadata
        if event.asset_key and event.asset_key.path[-1].startswith(PREFIX) and "run_id" in metadata:
            yield str(metadata["run_id"].value)
    ops: Any = context.dagster_run.run_config.get("ops") or {}
    for name, op in ops.items():
        if name.startswith(PREFIX) and (run_id := (op.get("config") or {}).get("run_id")):
            yield str(run_id)


def _errors(context: dg.RunStatusSensorContext) -> Iterator[str]:
    for event in _events(context, dg.DagsterEventType.STEP_FAILURE):
        failure = event.step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            yield scrub(failure.user_failure_data.description)
        elif failure.error is not None:
            yield scrub(
                f"Step {event.step_key} failed: {(failure.error.cause or failure.error).message.strip()}"
            )


SENSORS = [_notifier(outcome) for outcome in _STATUSES]
"""One sensor for each way a run can end."""
