"""The metric dictionary: from one step's samples to its ``run_steps`` row and its ``run_percentiles`` rows.

Belongs here: the formulas of ``docs/methodology.md`` §1.2 over two populations (M9): latencies of the
requests that *arrived* in the window W, rates of the events that *happened* in W. Does not belong here:
estimators (``quantiles``), SLO decisions (``slo``), verdicts (``validity``).

Failures (M13): TTFT and E2E of a failed request are +inf and count in ``n``. Token-level metrics exist only
for answers that completed; ``n_failed`` says how many requests are missing from them. Percentiles are upper
tails of what is listed; ``mean``, ``std`` (of the population) and ``min`` are over completed requests, and
``max`` is null when a failure is the maximum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from accelbench_assets.bench.frame import Array, Frame
from accelbench_assets.bench.quantiles import METHOD, Distribution, describe

SCHEMA_VERSION = "1"
MISMATCH_TOLERANCE = 0.02  # stream tokens against the server's count, relative (§1.1)
ERROR_SHARE_OVERLOADED = 0.05  # M13

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

    ``concurrency_mean`` is the time average over W of requests in flight, from send to the end of the stream.
    ``output_tokens_per_s`` counts tokens of answers that completed, ``…_served`` all of them.
    """
    window, seconds = frame.window, frame.window.seconds
    ok = frame.arrived & frame.ok
    scheduled = max(window.requests_scheduled, int(frame.arrived.sum()))
    errors = scheduled - int(ok.sum())
    tokens = frame.tokens_in_window()
    useful = float(tokens[frame.ok].sum()) / seconds
    served = float(tokens.sum()) / seconds
    input_tokens = frame.numbers("input_tokens")
    prefilled = float(np.nansum(input_tokens[frame.first_token_in_window()])) / seconds
    finished = frame.finished_ns()
    tails = np.rint(np.nan_to_num(frame.numbers("tail_ms")) * 1e6).astype(np.int64)
    overlap = np.minimum(finished + tails, window.end_ns) - np.maximum(frame.sent_ns, window.start_ns)
    tpot = frame.numbers("tpot_ms")[ok]
    mean_tpot = _mean(tpot)
    error_rate = _ratio(errors, scheduled)
    return {
        "step_index": window.step_index,
        "load_kind": window.load_kind,
        "load_value": window.load_value,
        "window_s": seconds,
        "requests_scheduled": scheduled,
        "ok": int(ok.sum()),
        "errors": errors,
        "error_rate": error_rate,
        "concurrency_mean": float(np.maximum(overlap, 0).sum()) / (window.end_ns - window.start_ns),
        "request_rate_offered": scheduled / seconds,
        "request_rate_achieved": int(frame.holds(frame.sent_ns).sum()) / seconds,
        "requests_per_s": int((frame.ok & frame.holds(finished)).sum()) / seconds,
        "input_tokens_per_s": prefilled,
        "output_tokens_per_s": useful,
        "output_tokens_per_s_served": served,
        "total_tokens_per_s": prefilled + useful,
        "output_tokens_per_s_per_accelerator": useful / accelerators if accelerators else None,
        "interactivity_tokens_per_s": 1000.0 / mean_tpot if mean_tpot else None,
        "input_tokens_mean": _mean(input_tokens[ok]),
        "output_tokens_mean": _mean(frame.numbers("output_tokens")[ok]),
        "token_mismatch_share": token_mismatch_share(frame),
        "prefix_cache_hit_share": _cached_share(frame, ok),
        "saturation_label": "overloaded" if error_rate and error_rate > ERROR_SHARE_OVERLOADED else None,
    }


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
    failed = int((frame.arrived & ~frame.ok).sum())

    def add(metric: str, values: Array, lost: int, unit: str = "ms", scale: float = 1.0, **how: Any) -> None:
        if (found := describe(values, intervals=intervals, window_median=window_median, **how)) is not None:
            row = _percentile_row(metric, unit, values, how.get("weights"), found, lost, scale)
            rows.append({**row, "step_index": frame.window.step_index})

    for metric, column in _FROM_REQUEST.items():
        values = frame.numbers(column)
        if ok.any() and np.isnan(values[ok]).all():
            continue  # not streamed: there is no first token to time
        values = np.where(ok & ~np.isnan(values), values, np.inf)[frame.arrived]
        add(metric, values, int(np.isinf(values).sum()))
    tpot = frame.numbers("tpot_ms")[ok]
    add("tpot", tpot[~np.isnan(tpot)], failed)
    gaps, tokens, sizes = frame.gaps(ok)
    add("chunk_gap", gaps, failed, scale=1e-3, sizes=sizes)
    if gaps.size and np.all(tokens == 1):
        rows.append({**rows[-1], "metric": "itl"})  # a token a chunk: the same samples, not sorted twice
    else:
        spread = tokens > 0
        clusters = np.bincount(np.repeat(np.arange(sizes.size), sizes)[spread], minlength=sizes.size)
        weights = tokens[spread]
        add("itl", gaps[spread] / weights, failed, scale=1e-3, weights=weights, sizes=clusters)
    lag = frame.numbers("send_lag_ms")[frame.arrived]
    add("send_lag", lag[~np.isnan(lag)], 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = (frame.numbers("output_tokens") / frame.numbers("e2e_from_send_ms") * 1000.0)[ok]
    add("output_rate_per_request", rate[np.isfinite(rate)], failed, unit="tokens/s")
    return rows


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
