"""Sensors that follow releases: new vLLM, new Neuron SDK, new model revision.

Belongs here: the throttle, the cursor, handing cells to the lake and run requests to Dagster.
Does not belong here: looking and deciding (``releases``), what a run costs (``budget``).

They run from the start: as installed, no suite is tracked and they skip; with suites, ``watch.dry_run`` (the default)
only says what would run. Money is spent after ``watch.dry_run = false`` alone, and then within the caps of ``watch``;
each run is still refused by its own pre-flight when the budget does not hold it.

A source that does not answer skips that one sensor's look with its cursor as it was, so nothing is missed. The sensor
ticks at the shortest pause ``watch.every_s`` may have; the pause itself is kept by the cursor, for the environment must
not be read while this module is imported.

The caps of a month hold over all sensors, also when they tick at the same moment: see ``releases.promises``.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cache

import dagster as dg

from accelbench_assets.budget.estimate import lake_prices
from accelbench_assets.defs.benchmarks import ARTEFACT_TAGS, asset_suffix, cells_partitions
from accelbench_assets.defs.resources import AccelBench
from accelbench_assets.errors import LakeError, UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.releases import look
from accelbench_assets.releases.cursor import Cursor, decode, encode
from accelbench_assets.releases.follow import Caps, Decision, Request, Spent, follow
from accelbench_assets.releases.look import Look
from accelbench_assets.releases.promises import Promise, Promises
from accelbench_assets.releases.subjects import NEURON, VLLM, tracked_cells, tracked_models
from accelbench_assets.releases.web import ReleaseError
from accelbench_assets.scrub import scrub
from accelbench_assets.settings import Settings
from loadgen.plan import PlanError
from partitions.cell import OWN_FAMILIES, BenchmarkCell, families

TICK_S = 60
USD_TAG = "accelbench/estimated_usd"
SOURCE_TAGS = {"triggered_by": "sensor"}
PARTITION_TAG = "dagster/partition"
PROMISES = Promises()
PAID_FAMILIES = tuple(family for family in families() if family not in OWN_FAMILIES)

Looker = Callable[[Settings, Sequence[BenchmarkCell], Cursor | None], Look]


def assets_of(family: str) -> list[dg.AssetKey]:
    """What one run of a cell materialises."""
    suffix = asset_suffix(family)
    return [dg.AssetKey(f"raw_samples_{suffix}"), dg.AssetKey(f"run_percentiles_{suffix}")]


def spent_this_month(
    instance: dg.DagsterInstance, now: datetime, promised: Collection[Promise] = ()
) -> Spent:
    """Runs all sensors asked for in the calendar month (UTC) and their estimates, as the instance remembers them, and
    what was *promised* and is no run yet.
    """
    start = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    runs = instance.get_runs(filters=dg.RunsFilter(tags=SOURCE_TAGS, created_after=start))
    usd = Decimal(0)
    for run in runs:
        try:
            usd += Decimal(run.tags.get(USD_TAG, "0"))
        except InvalidOperation:
            continue  # a tag somebody else wrote
    there = {(run.tags.get(PARTITION_TAG), run.tags.get("trigger_ref")) for run in runs}
    waiting = [one for one in promised if (one.partition_key, one.ref) not in there]
    return Spent(len(runs) + len(waiting), usd + sum((one.usd for one in waiting), Decimal(0)))


def estimator(settings: Settings, lake: Lake) -> Callable[[BenchmarkCell], Decimal]:
    """What a run of a cell may cost at most, as its pre-flight will reckon it; ``LaunchError`` if nobody knows."""
    from accelbench_assets.bench.request import LoadOptions
    from accelbench_assets.defs.requests import deadline_of, estimate_of
    from loadgen.workloads import Workload, load

    prices = lake_prices(lake)
    prices("", settings.region)  # read now: a lake that is down is no price that is unknown

    @cache
    def profile(name: str) -> Workload:
        try:
            return load(name)
        except PlanError as error:
            raise UsageError(str(error)) from None

    def usd(cell: BenchmarkCell) -> Decimal:
        deadline_s = deadline_of(cell, profile(cell.workload), LoadOptions(), settings)
        return estimate_of(cell, settings, deadline_s, None, prices).usd

    return usd


def _artefact(request: Request) -> tuple[str, str]:
    """What exactly was released: the commit of a model, or the image of an engine with its digest."""
    release = request.release
    if release.subject.startswith("model:"):
        return "model_commit", release.identity
    return "engine_image", release.ref


def _run_request(request: Request) -> dg.RunRequest:
    cell, release = request.cell, request.release
    name, value = _artefact(request)
    return dg.RunRequest(
        run_key=request.run_key,
        partition_key=cell.key_text,
        asset_selection=assets_of(cell.family),
        tags={
            **SOURCE_TAGS,
            "trigger_ref": release.ref,
            USD_TAG: f"{request.usd:.4f}",
            ARTEFACT_TAGS[name]: value,
        },
    )


def _result(decision: Decision, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    for line in decision.sentences():
        context.log.info(scrub(line))
    by_family: dict[str, list[str]] = {}
    for cell in decision.new_cells:
        by_family.setdefault(cell.family, []).append(cell.key_text)
    said = "; ".join(scrub(line) for line in decision.sentences()[:5]) or "Nothing is new."
    requests = [_run_request(request) for request in decision.requests]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else said,
        dynamic_partitions_requests=[
            cells_partitions(family).build_add_request(keys) for family, keys in by_family.items()
        ],
        cursor=encode(decision.cursor),
    )


def evaluate(
    context: dg.SensorEvaluationContext, accelbench: AccelBench, looker: Looker
) -> dg.SensorResult | dg.SkipReason:
    """One tick. Raises ``UsageError`` for settings that cannot be followed: the tick then fails and says so."""
    settings = accelbench.settings()
    watch, place, who = settings.watch, settings.lake_url, context.sensor_name
    PROMISES.forget(place, who)
    if not watch.suites:
        return dg.SkipReason("Setting watch.suites names no suite: nothing is followed.")
    cursor, warning = decode(context.cursor)
    if warning is not None:
        context.log.warning(warning)
    now = datetime.now(UTC)
    if cursor is not None and now < (due := cursor.looked_at + timedelta(seconds=watch.every_s)):
        return dg.SkipReason(f"The next look is due at {due:%Y-%m-%d %H:%M:%S} UTC.")
    cells = tracked_cells(watch.suites)
    try:
        seen = looker(settings, cells, cursor)
        for note in seen.notes:
            context.log.info(scrub(note))
        lake = accelbench.lake()
        usd_of = estimator(settings, lake)
        with PROMISES.turn(place, who) as turn:
            decision = follow(
                cells,
                seen.found,
                cursor,
                registered=lambda cell: context.instance.has_dynamic_partition(
                    cells_partitions(cell.family).name or "", cell.key_text
                ),
                caps=Caps(
                    runs_per_tick=watch.max_runs_per_tick,
                    runs_per_month=watch.max_runs_per_month,
                    usd_per_month=watch.max_usd_per_month,
                    usd_per_run=settings.budget.max_usd_per_run,
                ),
                estimate=usd_of,
                now=now,
                spent=spent_this_month(context.instance, now, turn.others),
                dry_run=watch.dry_run,
            )
            turn.take(Promise(r.cell.key_text, r.release.ref, r.usd) for r in decision.requests)
            for request in decision.requests:  # before the run can look for it; registering again is harmless
                lake.put_cell(request.cell)
                # A later run of the cell comes without the sensor's tags and needs the same image and weights.
                lake.put_cell_artefacts(request.cell.key_text, {_artefact(request)[0]: _artefact(request)[1]})
    except (ReleaseError, LakeError) as error:
        context.log.warning(scrub(str(error)))
        return dg.SkipReason(scrub(str(error)))
    return _result(decision, context)


def _known(cursor: Cursor | None, name: str) -> str | None:
    state = cursor.subjects.get(name) if cursor is not None else None
    return None if state is None else state.known


def look_at_vllm(settings: Settings, cells: Sequence[BenchmarkCell], cursor: Cursor | None) -> Look:
    """vLLM's newest release with an image."""
    return look.vllm(settings.watch.pypi_url, settings.watch.registry_url, _known(cursor, VLLM.name))


def look_at_neuron(settings: Settings, cells: Sequence[BenchmarkCell], cursor: Cursor | None) -> Look:
    """The newest vLLM image for Neuron."""
    return look.neuron_sdk(settings.watch.neuron_url, _known(cursor, NEURON.name))


def look_at_models(settings: Settings, cells: Sequence[BenchmarkCell], cursor: Cursor | None) -> Look:
    """The current commit of every model of the tracked suites."""
    return look.model_revisions(settings.watch.hub_url, tracked_models(cells))


def release_sensor(name: str, looker: Looker, description: str) -> dg.SensorDefinition:
    """A sensor that may ask for runs of any family on rented machines."""

    def tick(context: dg.SensorEvaluationContext, accelbench: AccelBench) -> dg.SensorResult | dg.SkipReason:
        return evaluate(context, accelbench, looker)

    return dg.sensor(
        name=name,
        description=description,
        # The base job of these assets is what a request with a partition of its family runs on.
        asset_selection=dg.AssetSelection.assets(
            *[key for family in PAID_FAMILIES for key in assets_of(family)]
        ),
        minimum_interval_seconds=TICK_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )(tick)


SENSORS: list[dg.SensorDefinition] = [
    release_sensor(
        "new_vllm_release",
        look_at_vllm,
        "A new stable vLLM with a published image: the tracked suites' GPU cells with that version.",
    ),
    release_sensor(
        "new_neuron_sdk",
        look_at_neuron,
        "A new Neuron SDK with a vLLM image: the tracked suites' Neuron cells with that version.",
    ),
    release_sensor(
        "new_model_revision",
        look_at_models,
        "A new commit of a model on the hub: the tracked suites' cells of that model with that revision.",
    ),
]
