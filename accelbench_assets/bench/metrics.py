"""The metric dictionary: from one step's samples to its ``run_steps`` row and its ``run_percentiles`` rows.

Belongs here: the formulas of ``docs/methodology.md`` §1.2 over two populations (M9): latencies of the
requests that *arrived* in the window W, rates of the events that *happened* in W. Does not belong here:
estimators (``quantiles``), SLO decisions (``slo``), verdicts (``validity``).

Failures (M13): TTFT and E2E of a failed request are +inf and count in ``n``. Token-level metrics exist only
for answers that completed; ``n_failed`` says how many requests are missing from them. Percentiles are upper
tails of what is listed; ``mean``, ``std`` (of the population) and ``min`` are over completed requests, and
``max`` is null when a failure is the maximum. Requests that the workload itself cancelled (planned cancels)
are in no latency population and are no failures; they count in concurrency and in served tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from accelbench_assets.bench.chunks import gap_hits
from accelbench_assets.bench.frame import Array, Frame
from accelbench_assets.bench.quantiles import (
    METHOD,
    QUANTILES,
    Distribution,
    Ecdf,
    cluster_tau,
    describe,
    describe_ecdf,
)
from accelbench_assets.bench.rates import batch_means, completions_by_batch
from accelbench_assets.bench.saturation import OVERLOADED, UNSTABLE
from accelbench_assets.bench.steadiness import backlog, in_flight_by_batch

SCHEMA_VERSION = "1"
MISMATCH_TOLERANCE = 0.02  # stream tokens against the server's count, relative (§1.1)
ERROR_SHARE_OVERLOADED = 0.05  # M13
DERIVED = "derived"  # gate of a token-gap tail whose tokens a chunk are a proportional split (§1.1)
_DERIVED_TAIL = 0.99  # from this quantile up

_FROM_REQUEST = {
    "ttft": "ttft_ms",
    "ttft_from_send": "ttft_from_send_ms",
    "e2e": "e2e_ms",
    "e2e_from_send": "e2e_from_send_ms",
}

Row = dict[str, Any]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def step_row(frame: Frame, *, accelerators: int | None = None) -> Row:
    """The ``run_steps`` row of one step, without run and verdict columns; what needs engine metrics is null.

    ``concurrency_mean`` is the time average over W of requests in flight, from send to the end of the exchange,
    however it ended. ``output_tokens_per_s`` counts tokens of answers that completed, ``…_served`` all of them;
    both ``…_ci_…`` pairs are S6's within this run. ``error_rate`` is of the scheduled requests that the workload did
    not cancel itself.
    """
    window, seconds = frame.window, frame.window.seconds
    ok = frame.arrived & frame.ok
    scheduled = max(window.requests_scheduled, int(frame.arrived.sum()))
    planned_cancels = int((frame.arrived & frame.planned_cancels).sum())
    errors = scheduled - planned_cancels - int(ok.sum())
    failed_tokens, useful_tokens = frame.survey.tokens_by_batch
    useful = float(useful_tokens.sum()) / seconds
    served = useful + float(failed_tokens.sum()) / seconds
    input_tokens = frame.numbers("input_tokens")
    prefilled = float(np.nansum(input_tokens[frame.first_token_in_window()])) / seconds
    completed = completions_by_batch(frame)
    token_rate, request_rate = (
        batch_means(counts * counts.size / seconds) for counts in (useful_tokens, completed)
    )
    mean_tpot = _mean(frame.numbers("tpot_ms")[ok])
    error_rate = _ratio(errors, scheduled - planned_cancels)
    return {
        "step_index": window.step_index,
        "load_kind": window.load_kind,
        "load_value": window.load_value,
        "window_s": seconds,
        "requests_scheduled": scheduled,
        "ok": int(ok.sum()),
        "errors": errors,
        "error_rate": error_rate,
        "planned_cancels": planned_cancels,
        "concurrency_mean": float(in_flight_by_batch(frame).mean()),
        "request_rate_offered": scheduled / seconds,
        "request_rate_achieved": int(frame.holds(frame.sent_ns).sum()) / seconds,
        "requests_per_s": int(completed.sum()) / seconds,
        "requests_per_s_ci_low": request_rate.low,
        "requests_per_s_ci_high": request_rate.high,
        "input_tokens_per_s": prefilled,
        "output_tokens_per_s": useful,
        "output_tokens_per_s_ci_low": token_rate.low,
        "output_tokens_per_s_ci_high": token_rate.high,
        "output_tokens_per_s_served": served,
        "total_tokens_per_s": prefilled + useful,
        "output_tokens_per_s_per_accelerator": useful / accelerators if accelerators else None,
        "interactivity_tokens_per_s": 1000.0 / mean_tpot if mean_tpot else None,
        "input_tokens_mean": _mean(input_tokens[ok]),
        "output_tokens_mean": _mean(frame.numbers("output_tokens")[ok]),
        "token_mismatch_share": token_mismatch_share(frame),
        "prefix_cache_hit_share": _cached_share(frame, ok),
        "saturation_label": _label(frame, error_rate),
    }


def _label(frame: Frame, error_rate: float | None) -> str | None:
    """M24 before M13: requests cut at the tail's end are what an unstable step ends in."""
    grown = backlog(frame)
    if grown is not None and grown.unstable:
        return UNSTABLE
    return OVERLOADED if error_rate and error_rate > ERROR_SHARE_OVERLOADED else None


def token_mismatch_share(frame: Frame) -> float | None:
    """Share of completed requests whose streamed tokens and server-side count differ by more than 2 %."""
    counts = frame.numbers("output_tokens")
    comparable = frame.arrived & frame.ok & (counts > 0) & (frame.chunk_counts > 0)
    differing = np.abs(frame.tokens_by_request() - counts) > MISMATCH_TOLERANCE * counts
    return _ratio(int((comparable & differing).sum()), int(comparable.sum()))


def _cached_share(frame: Frame, ok: Array) -> float | None:
    cached, tokens = frame.numbers("cached_input_tokens"), frame.numbers("input_tokens")
    known = ok & ~np.isnan(cached) & ~np.isnan(tokens)
    return _ratio(float(cached[known].sum()), float(tokens[known].sum()))


def percentile_rows(frame: Frame, *, intervals: bool, window_median: bool = False) -> list[Row]:
    """One ``run_percentiles`` row for every metric that has samples in this step, without run columns.

    *intervals* false (one short trial: levels demo and smoke) leaves every ``_ci_`` column null;
    *window_median*: see ``quantiles.describe``.
    """
    rows: list[Row] = []
    ok = frame.arrived & frame.ok
    failed = int((frame.judged & ~frame.ok).sum())

    def add(metric: str, values: Array, lost: int, unit: str = "ms") -> None:
        if (found := describe(values, intervals=intervals, window_median=window_median)) is not None:
            rows.append(_percentile_row(metric, unit, values, None, found, lost, 1.0))

    for metric, column in _FROM_REQUEST.items():
        values = frame.numbers(column)
        if ok.any() and np.isnan(values[ok]).all():
            continue  # not streamed: there is no first token to time
        values = np.where(ok & ~np.isnan(values), values, np.inf)[frame.judged]
        add(metric, values, int(np.isinf(values).sum()))
    tpot = frame.numbers("tpot_ms")[ok]
    add("tpot", tpot[~np.isnan(tpot)], failed)
    rows += _gap_rows(frame, ok, failed, intervals, window_median)
    lag = frame.numbers("send_lag_ms")[frame.judged]
    add("send_lag", lag[~np.isnan(lag)], 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = (frame.numbers("output_tokens") / frame.numbers("e2e_from_send_ms") * 1000.0)[ok]
    add("output_rate_per_request", rate[np.isfinite(rate)], failed, unit="tokens/s")
    return [{**row, "step_index": frame.window.step_index} for row in rows]


def _gap_rows(frame: Frame, ok: Array, failed: int, intervals: bool, window_median: bool) -> list[Row]:
    """The rows ``chunk_gap`` and ``itl``: quantiles of exact counts by value, clusters are requests."""
    survey = frame.survey
    rows: list[Row] = []

    def add(metric: str, pairs: tuple[Array, Array], mass: Array, *, per_token: bool) -> None:
        filled = mass > 0
        chosen = ok.copy()
        chosen[chosen] = filled

        def taus_at(limits: Sequence[float]) -> list[float]:
            hits = gap_hits(frame, chosen, np.array(limits), per_token=per_token)
            return [cluster_tau(row, mass[filled]) for row in hits]

        values, counts = pairs
        found = describe_ecdf(
            Ecdf(values, counts), int(filled.sum()), taus_at, intervals=intervals, window_median=window_median
        )
        if found is not None:
            rows.append(_percentile_row(metric, "ms", values, counts, found, failed, 1e-3))

    add("chunk_gap", survey.gaps.chunk_gaps(), np.maximum(survey.chunks[ok] - 1, 0), per_token=False)
    if survey.gaps.single_tokens:
        # A token a chunk: the same samples, not counted twice.
        rows += [{**row, "metric": "itl"} for row in rows]
    else:
        mass = (survey.tokens - survey.first_tokens)[ok]
        add("itl", survey.gaps.token_gaps(), mass, per_token=True)
    return [
        _without_derived_tail(row, derived_share(frame)) if row["metric"] == "itl" else row for row in rows
    ]


def derived_share(frame: Frame) -> float:
    """Share of the token gaps whose chunk's tokens are a proportional split of the answer's final count (§1.1)."""
    ok = frame.arrived & frame.ok
    tokens, chunks = frame.tokens_by_request(), frame.chunk_counts
    split = ok & frame.says("token_count_source", "usage") & (tokens != chunks)
    inner = tokens - frame.survey.first_tokens
    return _ratio(float(inner[split].sum()), float(inner[ok].sum())) or 0.0


def _without_derived_tail(row: Row, share: float) -> Row:
    """A tail quantile is withheld when derived gaps could move its rank by more than a tenth of the tail."""
    for name, q in QUANTILES.items():
        if q >= _DERIVED_TAIL and share > (1.0 - q) / 10.0:
            blank = dict.fromkeys((name, f"{name}_ci_low", f"{name}_ci_high", f"{name}_needs_n"))
            row = {**row, **blank, f"{name}_gate": DERIVED}
    return row


def _percentile_row(
    metric: str,
    unit: str,
    values: Array,
    weights: Array | None,
    found: Distribution,
    n_failed: int,
    scale: float,
) -> Row:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value * scale

    lost = np.isinf(values)
    any_lost = bool(lost.any())
    finite = values[~lost] if any_lost else values
    mean = std = low = None
    if finite.size:
        mean = float(np.average(finite, weights=weights))
        std = float(np.sqrt(np.average((finite - mean) ** 2, weights=weights)))
        low = float(finite.min())
    row: Row = {
        "metric": metric,
        "unit": unit,
        "n": found.n,
        "n_failed": n_failed,
        "n_eff": found.n_eff,
        "mean": scaled(mean),
        "std": scaled(std),
        "min": scaled(low),
        "max": None if any_lost else scaled(float(finite.max())),
        "method": METHOD,
        "schema_version": SCHEMA_VERSION,
    }
    for name, estimate in found.quantiles.items():
        row[name] = scaled(estimate.value)
        row[f"{name}_ci_low"] = scaled(estimate.ci_low)
        row[f"{name}_ci_high"] = scaled(estimate.ci_high)
        row[f"{name}_gate"] = estimate.gate
        row[f"{name}_needs_n"] = estimate.needs_n
    return row
