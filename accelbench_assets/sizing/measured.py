"""Measured runs of the lake: their ranking beside the estimates, and what they teach the priors.

Belongs here: reading steps of measured runs, which of them answer an ask, their cost, observations for ``calibrate``.
Does not belong here: estimates. Only origin ``measured`` counts, never void or withdrawn; rankings take evidence
``standard`` and above, current runs, and lengths within a quarter of those asked for, of steps in which at most 1 % of
the requests failed, that were steady where that was judged, and that the server carried.

A request rate is only answered by a step that says what a server can take from users who do not wait for it: an open
loop within the target (the one asked for, else the workload's own), as ``reporting_points`` has it. A closed loop
saturates the server by design; its rate is not a capacity, and with ``rps`` such a cell is left out and counted so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from accelbench_assets.errors import UsageError
from accelbench_assets.sizing.ask import ANY, AUTO, Ask
from accelbench_assets.sizing.calibrate import Calibration, Observation, calibrate
from accelbench_assets.sizing.money import Cost, Prices, cost_of, order_of, over_budget
from accelbench_assets.sizing.roofline import replica
from accelbench_assets.sizing.weights import weights_of
from partitions.catalog import load_instances, load_models

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

RANKED_EVIDENCE = ("standard", "publication")
USABLE_GATES = ("published", "wide")
MOST_ERRORS = 0.01
NOT_CARRIED = ("overloaded", "unstable")
NEAR = 0.25
"""How far the mean lengths of a run may be from those asked for, as a share."""
OVER = "over the monthly limit"
MOST_CACHED = 0.05
"""Above this share of cached prompt tokens a prefill says nothing of MFU."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a measured run, with the columns of ``benchmark_results`` of the same names."""

    run_id: str
    step_index: int
    cell_id: str
    model: str
    instance_type: str
    instance_count: int | None
    accelerators_used: int | None
    quantization: str | None
    tp: int | None
    replicas: int | None
    engine: str
    engine_version: str
    workload_id: str
    evidence_level: str
    is_current: bool
    max_model_len: int | None
    kv_cache_dtype: str | None
    load_kind: str
    load_value: float
    error_rate: float | None
    steady: bool | None
    saturation_label: str | None
    slo_decision: str | None
    concurrency_mean: float | None
    requests_per_s: float | None
    input_tokens_mean: float | None
    output_tokens_mean: float | None
    prefix_cache_hit_share: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    ttft_p95_gate: str | None
    tpot_p50_ms: float | None
    tpot_p95_ms: float | None
    tpot_p95_gate: str | None


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A measured step that answers the ask, the highest load of its cell that does; ``place`` counts from 1."""

    place: int
    step: Step
    cost: Cost


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows in order of cost, and how many measured cells of the model do not answer, by reason."""

    rows: tuple[MeasuredRow, ...]
    left_out: dict[str, int]


def read_steps(lake: Lake) -> tuple[Step, ...]:
    """Steps of the measured runs that are neither void nor withdrawn, by run and step."""
    if not lake.run_records(limit=1):  # the common first question; the catalog's SQL takes a second to attach
        return ()
    from accelbench_assets.sqlkit.duck import query

    names = [field.name for field in fields(Step)]
    text = (
        f"select {', '.join(names)} from benchmark_results "  # noqa: S608 - names of our own fields
        "where origin = 'measured' and verdict <> 'void' and not superseded order by run_id, step_index"
    )
    return tuple(Step(**row) for row in query(lake, text).to_pylist())


def rank(steps: Iterable[Step], ask: Ask, prices: Prices) -> Measured:
    """Measured rows for *ask*, cheapest first; a quantile the gates withhold does not answer an objective."""
    wanted = {row.instance_type for row in ask.instances}
    best: dict[str, Step] = {}
    why_not: dict[str, str] = {}
    for step in steps:
        if step.model != ask.model.slug or step.instance_type not in wanted or not step.is_current:
            continue
        if reason := _unfit(step, ask):
            why_not.setdefault(step.cell_id, reason)
        elif step.cell_id not in best or (step.requests_per_s or 0) > (
            best[step.cell_id].requests_per_s or 0
        ):
            best[step.cell_id] = step
    priced: list[tuple[Step, Cost]] = []
    for cell, step in sorted(best.items()):
        cost = _cost(step, ask, prices)
        if reason := over_budget(cost, ask):
            why_not[cell] = "no price to hold against the limit" if cost.usd_per_month is None else OVER
        else:
            priced.append((step, cost))
    priced.sort(key=lambda pair: (*order_of(pair[1], ask.rps), pair[0].run_id))
    answered = {step.cell_id for step, _ in priced}
    counts: dict[str, int] = {}
    for cell, reason in sorted(why_not.items()):
        if cell not in answered:
            counts[reason] = counts.get(reason, 0) + 1
    return Measured(tuple(MeasuredRow(n, *pair) for n, pair in enumerate(priced, 1)), counts)


def _cost(step: Step, ask: Ask, prices: Prices) -> Cost:
    """The cost by the run's own rate and lengths, in whole deployments of as many instances as it ran on."""
    count = step.instance_count or 1
    return cost_of(
        prices(step.instance_type),
        step.requests_per_s or 0.0,
        step.input_tokens_mean or 0.0,
        step.output_tokens_mean or 0.0,
        ask.rps,
        step.replicas or 1,
        instances=count,
    )


def _unfit(step: Step, ask: Ask) -> str | None:
    """Why *step* does not answer *ask*; None if it does."""
    if step.evidence_level not in RANKED_EVIDENCE:
        return "evidence below standard"
    if not step.requests_per_s or not step.output_tokens_mean or not step.input_tokens_mean:
        return "no rate or lengths"
    if reason := _served_otherwise(step, ask):
        return reason
    for mean, asked in ((step.input_tokens_mean, ask.isl), (step.output_tokens_mean, ask.osl)):
        if not (1 - NEAR) * asked <= mean <= (1 + NEAR) * asked:
            return "other lengths"
    if reason := _unsound(step):
        return reason
    return _off_target(step, ask)


def _served_otherwise(step: Step, ask: Ask) -> str | None:
    """What was asked for by name and *step* did not have."""
    if ask.quantization not in (AUTO, ANY):
        try:
            had = weights_of(ask.model, None if step.quantization in (None, "none") else step.quantization)
        except UsageError:
            return "another precision"
        if had.precision != weights_of(ask.model, ask.quantization).precision:
            return "another precision"
    if ask.kv_cache_dtype != "auto" and step.kv_cache_dtype != ask.kv_cache_dtype:
        return "another KV cache"
    if ask.max_model_len is not None and step.max_model_len is not None:
        return "a shorter context" if step.max_model_len < ask.max_model_len else None
    return None


def _unsound(step: Step) -> str | None:
    """Why *step* says nothing of what a server carries."""
    if step.error_rate is None or step.error_rate > MOST_ERRORS:
        return "more than 1 % of the requests failed, or nobody counted"
    if step.steady is False:
        return "not steady"
    return step.saturation_label if step.saturation_label in NOT_CARRIED else None


def _off_target(step: Step, ask: Ask) -> str | None:
    """Why *step* does not meet the objective, or is no capacity where a request rate is to be carried."""
    for limit, value, gate in (
        (ask.ttft_ms, step.ttft_p95_ms, step.ttft_p95_gate),
        (ask.tpot_ms, step.tpot_p95_ms, step.tpot_p95_gate),
    ):
        if limit is None:
            continue
        if value is None or gate not in USABLE_GATES:
            return "p95 not published"
        if value > limit:
            return "misses the objective"
    if ask.rps is None:
        return None
    if step.load_kind != "open":
        return "no open-loop step within the target, so no capacity to count replicas by"
    if ask.ttft_ms is None and ask.tpot_ms is None and step.slo_decision != "pass":
        return "no open-loop step passed the workload's own objective, and none was asked for"
    return None


def observations(steps: Iterable[Step]) -> list[Observation]:
    """What *steps* on catalogued accelerators say of the efficiencies; unknown models and precisions say nothing."""
    found = []
    for step in steps:
        instance, model = load_instances().get(step.instance_type), load_models().get(step.model)
        if instance is None or model is None or not step.input_tokens_mean or not step.output_tokens_mean:
            continue
        if _unsound(step):  # failed requests and a growing queue are not the engine's speed
            continue
        try:
            weights = weights_of(model, None if step.quantization in (None, "none") else step.quantization)
        except UsageError:
            continue
        one = replica(model, weights, instance.accelerator, step.tp or 1)
        replicas = max(1, step.replicas or 1)
        at_once = step.concurrency_mean
        if at_once is None and step.load_kind == "closed":
            at_once = step.load_value
        if one is None or not at_once:
            continue
        cached = (step.prefix_cache_hit_share or 0.0) > MOST_CACHED
        rate = None if step.requests_per_s is None or cached else step.requests_per_s / replicas
        found.append(
            Observation(
                run_id=step.run_id,
                engine=step.engine,
                accelerator=instance.accelerator.id,
                one=one,
                concurrency=at_once / replicas,
                isl=step.input_tokens_mean,
                osl=step.output_tokens_mean,
                ttft_s=None if step.ttft_p50_ms is None or cached else step.ttft_p50_ms / 1e3,
                tpot_s=None if step.tpot_p50_ms is None else step.tpot_p50_ms / 1e3,
                requests_per_s=rate,
            )
        )
    return found


def calibration_of(steps: Sequence[Step]) -> Calibration:
    """The posteriors that *steps* support."""
    kinds = {row.accelerator.id: row.accelerator.kind for row in load_instances().values()}
    return calibrate(observations(steps), kinds)
