"""From a partition key and a launchpad's bounds to the request that ``run_benchmark`` takes.

Belongs here: what a run started in the UI, by a backfill or by the command line has in common.
Does not belong here: anything that changes the meaning of a result: that is the cell.
"""

import json
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg
from pydantic import Field

from accelbench_assets.bench.record import new_run_id
from accelbench_assets.bench.request import LoadOptions, RunRequest, claimed_level
from accelbench_assets.budget.base import Estimate, paid_seconds
from accelbench_assets.budget.estimate import PriceLookup, estimate, lake_prices
from accelbench_assets.errors import UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.scrub import looks_secret
from accelbench_assets.settings import Settings
from loadgen.workloads import Workload, from_document, load, names
from partitions.catalog import load_models
from partitions.cell import OWN_FAMILIES, BenchmarkCell

ALLOWANCE_S = {"local": 180.0, "endpoint": 60.0}
"""Time from asking to the first request; of an EC2 family it is what the setting ``kube`` grants."""


class BenchmarkConfig(dg.Config):
    """Bounds and circumstances of one run. Nothing here changes what the result means."""

    run_id: str = Field(default="", description="UUIDv7 given by the caller; empty: a new one.")
    seed: int | None = Field(
        default=None, ge=0, description="Root seed of lengths, content and arrivals; empty: a fresh one."
    )
    deadline_s: float = Field(
        default=0.0,
        ge=0.0,
        le=86_400.0,
        description="End of everything, seconds after the start; 0: by rule.",
    )
    endpoint_url: str = Field(
        default="", description="For endpoint cells: the server's URL, without credentials."
    )
    api_key_env: str = Field(
        default="", description="Name of the environment variable that holds the API key."
    )
    headers: dict[str, str] = Field(default_factory=dict, description="Extra request headers; no secrets.")
    served_model_name: str = Field(default="", description="The model's name at the server, if it differs.")
    model_id: str = Field(default="", description="Hugging Face id, if the catalog does not know the model.")
    port: int = Field(default=0, ge=0, le=65_535, description="Port for a local engine; 0: any free one.")
    usd_per_hour: float = Field(default=0.0, ge=0.0, description="Declared price; 0: none is declared.")
    workload_json: str = Field(
        default="", description="Document of a custom workload; empty: by the cell's id."
    )
    load_json: str = Field(
        default="", description="Load options (workers, dataset, search_slo, canary, proxy_env); empty: none."
    )
    reproduce_command: str = Field(default="", description="The command that repeats this run.")
    suite_id: str = Field(default="", description="Suite this run belongs to.")
    trial_index: int = Field(default=0, ge=0, le=32_767, description="Which of several trials this run is.")
    requested_by: str = Field(default="", description="Who asked for the run.")


LONGEST_PAID_S = 8400.0
"""The cluster's own limits (run monitoring, nodes' expiry) stand a little behind it."""
SEARCH_LOAD_S = 1800.0  # load of a capacity search: it says how far it came


def planned_seconds(workload: Workload, load: LoadOptions) -> float:
    """Warm-up, windows and longest tails of the whole ladder, in seconds."""
    if load.search_slo is not None:
        return SEARCH_LOAD_S / 1.5
    return len(workload.ladder) * (workload.warmup_s + workload.window_s + workload.tail_s)


def deadline_of(cell: BenchmarkCell, workload: Workload, load: LoadOptions, settings: Settings) -> float:
    """The end of everything where nobody said another, in seconds: at most two hours."""
    kube = settings.kube
    allowance = ALLOWANCE_S.get(cell.family, kube.provisioning_s + kube.start_s)
    return min(7200.0, allowance + 1.5 * planned_seconds(workload, load))


def find_cell(lake: Lake, key: str) -> BenchmarkCell:
    """The cell of a partition key, from the lake's registry. Raises ``UsageError`` for a key never registered there."""
    cell = lake.find_cell(key)
    if cell is None:
        raise UsageError(
            f"Partition {key} is not registered in the lake {lake.url}.",
            hint="Its deployment is unknown: add it with `accelbench cells sync` or `accelbench run`.",
        )
    return cell


def _last_endpoint(lake: Lake, cell: BenchmarkCell) -> str | None:
    for record in lake.run_records(cell_id=cell.cell_id):
        if record.get("source_url"):
            return str(record["source_url"])
    return None


def _workload(lake: Lake, cell: BenchmarkCell, given: str) -> Workload:
    """The cell's workload: as *given*, packaged, or (a custom one) from the plan of an earlier run of the cell."""
    if given:
        return from_document(json.loads(given))
    if cell.workload in names():
        return load(cell.workload)
    for record in lake.run_records(cell_id=cell.cell_id):
        if "plan.json" in lake.log_names(record["run_id"]):
            return from_document(json.loads(lake.read_log(record["run_id"], "plan.json"))["workload"])
    raise UsageError(
        f"Workload {cell.workload} is a custom one and no earlier run of this cell tells what it is.",
        hint="Give workload_json in the launchpad, or use `accelbench run` with its load flags.",
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from: its Dagster run, when that was asked for, and by what.

    ``artefacts`` is what a sensor saw of the release it asks for: ``image`` or ``model_commit``.
    """

    dagster_run_id: str = ""
    requested_at: datetime | None = None
    triggered_by: str = "user"
    trigger_ref: str | None = None
    artefacts: Mapping[str, str] = field(default_factory=dict)


def build_request(
    cell: BenchmarkCell, config: BenchmarkConfig, settings: Settings, lake: Lake, origin: Origin
) -> RunRequest:
    """The request for one attempt. Raises ``UsageError`` when an endpoint cell comes without a URL, ``LaunchError``
    (``no_price``) when nobody knows what a paid launch may cost.
    """
    workload, load_options = _workload(lake, cell, config.workload_json), _load_options(config.load_json)
    endpoint_url = config.endpoint_url or (_last_endpoint(lake, cell) if cell.family == "endpoint" else None)
    if cell.family == "endpoint" and not endpoint_url:
        raise UsageError(
            f"Cell {cell.key_text} is a server somebody else runs and no run of it tells where it is.",
            hint="Give endpoint_url in the launchpad, or use `accelbench run --endpoint URL`.",
        )
    if bad := [name for name in config.headers if looks_secret(name)]:
        raise UsageError(
            f"headers: {bad[0]} looks like a secret, which would be stored with the run.",
            hint="Name the environment variable that holds it in api_key_env.",
        )
    models = load_models()
    model_id = config.model_id or (models[cell.model].model_id if cell.model in models else cell.model)
    deadline_s = config.deadline_s or deadline_of(cell, workload, load_options, settings)
    own = cell.family in OWN_FAMILIES
    if not own and deadline_s > LONGEST_PAID_S:
        raise UsageError(
            f"deadline_s: {deadline_s:.0f} s is beyond {LONGEST_PAID_S:.0f} s, after which the cluster ends any run.",
            hint="Split the ladder into several runs.",
        )
    return RunRequest(
        cell=cell,
        workload=workload,
        model_id=model_id,
        evidence_level=claimed_level(workload.evidence_level, load_options.dataset),
        run_id=config.run_id or new_run_id(),
        # The same prompts again would measure the prefix cache of a server that is still warm.
        seed=secrets.randbits(32) if config.seed is None else config.seed,
        deadline_s=deadline_s,
        triggered_by=origin.triggered_by,
        trigger_ref=origin.trigger_ref,
        requested_by=config.requested_by or None,
        requested_at=origin.requested_at,
        **(origin.artefacts or lake.cell_artefacts(cell.key_text)),
        estimate=None
        if own
        else estimate_of(cell, settings, deadline_s, config.usd_per_hour or None, lake_prices(lake)),
        dagster_run_id=_uuid_or_none(origin.dagster_run_id),
        endpoint_url=endpoint_url,
        api_key_env=config.api_key_env or None,
        headers=config.headers,
        served_model_name=config.served_model_name or None,
        port=config.port or None,
        suite_id=config.suite_id or None,
        trial_index=config.trial_index,
        # The setting is this machine's price, nobody else's.
        usd_per_hour=config.usd_per_hour or (settings.usd_per_hour if cell.family == "local" else None),
        load=load_options,
        reproduce_command=config.reproduce_command or f"accelbench run --cell '{cell.key_text}'",
        launcher_name=cell.family if own else "eks",
        home=settings.home,
    )


def estimate_of(
    cell: BenchmarkCell, settings: Settings, deadline_s: float, declared: float | None, lookup: PriceLookup
) -> Estimate:
    """What the run may cost at most: every instance until the deadline and until its idle node is taken away, and what
    nodes cost that replace lost ones.
    """
    return estimate(
        cell.instance,
        instances=cell.deployment.replicas,
        region=settings.region,
        seconds=paid_seconds(deadline_s, cell.deployment.replicas),
        declared=declared,
        lookup=lookup,
    )


def _load_options(text: str) -> LoadOptions:
    try:
        return LoadOptions(**json.loads(text)) if text else LoadOptions()
    except (TypeError, ValueError) as error:
        raise UsageError(f"load_json: {error}.") from None


def _uuid_or_none(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
