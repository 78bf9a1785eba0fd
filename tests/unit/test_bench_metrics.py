"""Metrics against a slow reference that follows the dictionary word by word, and cases done by hand."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.bench.frame import Frame, StepWindow, step_windows
from accelbench_assets.bench.metrics import percentile_rows, step_row
from accelbench_assets.bench.slo import decide, slo_id, slo_row, wilson_interval
from tests.unit.bench_samples import SECOND, T0, row, shard, table

WINDOW_S = 10.0


def window(scheduled: int = 0, seconds: float = WINDOW_S) -> StepWindow:
    return StepWindow(0, "closed", 1.0, "none", T0, T0 + round(seconds * SECOND), scheduled)


def frame(rows: list[dict[str, Any]], **kwargs: Any) -> Frame:
    return Frame(table(rows), window(**kwargs))


def by_metric(found: Frame) -> dict[str, dict[str, Any]]:
    return {r["metric"]: r for r in percentile_rows(found, intervals=True)}


@st.composite
def requests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A step of requests in any phase and state, with answers across both edges of W."""
    rows = []
    for seq in range(draw(st.integers(1, 25))):
        phase = draw(st.sampled_from(["warmup", "measure", "measure", "measure", "tail", "calibration"]))
        low, high = {"warmup": (-5, -0.001), "calibration": (-9, -6), "tail": (10, 14)}.get(phase, (0, 9.999))
        gaps = draw(st.lists(st.integers(0, 900_000), max_size=5))
        offsets = [sum(gaps[: i + 1]) / 1000 for i in range(len(gaps))]
        status = draw(st.sampled_from(["ok", "ok", "ok", "error", "timeout", "incomplete", "cancelled"]))
        if status == "ok" and not offsets:
            status = "error"
        rows.append(
            row(
                at_s=draw(st.integers(int(low * 1000), int(high * 1000))) / 1000,
                seq=seq,
                lag_ms=float(draw(st.integers(0, 300))),
                chunks_ms=tuple(offsets),
                tokens=tuple(draw(st.integers(1, 4)) for _ in offsets),
                status=status,
                phase=phase,
                cached_input_tokens=draw(st.sampled_from([None, 0, 8])),
                tail_ms=float(draw(st.integers(0, 50))) if offsets else None,
            )
        )
    return rows


def reference_step(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """``run_steps`` by loops over requests and chunks."""
    start, end = T0, T0 + round(WINDOW_S * SECOND)
    rows = [r for r in rows if r["phase"] != "calibration"]
    arrived = [r for r in rows if r["phase"] == "measure"]
    ok = [r for r in arrived if r["status"] == "ok"]
    useful = served = prefilled = in_flight = 0.0
    sent = completed = 0
    for r in rows:
        stamps = [r["sent_at"] + us * 1000 for us in r["chunk_offset_us"]]
        inside = sum(t for at, t in zip(stamps, r["chunk_tokens"], strict=True) if start <= at < end)
        served += inside
        useful += inside if r["status"] == "ok" else 0
        if stamps and start <= stamps[0] < end:
            prefilled += r["input_tokens"] or 0
        sent += start <= r["sent_at"] < end
        last = stamps[-1] if stamps else r["sent_at"]
        completed += r["status"] == "ok" and start <= last < end
        over = last + round((r["tail_ms"] or 0) * 1e6)
        in_flight += max(0, min(over, end) - max(r["sent_at"], start))
    known = [r for r in ok if r["cached_input_tokens"] is not None]
    tpot = [r["tpot_ms"] for r in ok if r["tpot_ms"] is not None]
    return {
        "requests_scheduled": len(arrived),
        "ok": len(ok),
        "errors": len(arrived) - len(ok),
        "concurrency_mean": in_flight / (end - start),
        "request_rate_achieved": sent / WINDOW_S,
        "requests_per_s": completed / WINDOW_S,
        "input_tokens_per_s": prefilled / WINDOW_S,
        "output_tokens_per_s": useful / WINDOW_S,
        "output_tokens_per_s_served": served / WINDOW_S,
        "interactivity_tokens_per_s": 1000 * len(tpot) / sum(tpot) if sum(tpot) else None,
        "output_tokens_mean": sum(r["output_tokens"] for r in ok) / len(ok) if ok else None,
        "prefix_cache_hit_share": sum(r["cached_input_tokens"] for r in known) / (16 * len(known))
        if known
        else None,
    }


def reference_samples(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Samples of each metric, one list entry a sample, failures as infinity where the dictionary says so."""
    arrived = sorted((r for r in rows if r["phase"] == "measure"), key=lambda r: r["scheduled_at"])
    ok = [r for r in arrived if r["status"] == "ok"]
    gaps = [
        (b - a, m)
        for r in ok
        for a, b, m in zip(
            r["chunk_offset_us"], r["chunk_offset_us"][1:], r["chunk_tokens"][1:], strict=False
        )
    ]
    return {
        "ttft": [r["ttft_ms"] if r["status"] == "ok" else math.inf for r in arrived],
        "e2e": [r["e2e_ms"] if r["status"] == "ok" else math.inf for r in arrived],
        "tpot": [r["tpot_ms"] for r in ok if r["tpot_ms"] is not None],
        "itl": [gap / m / 1000 for gap, m in gaps for _ in range(m)],
        "chunk_gap": [gap / 1000 for gap, _ in gaps],
        "send_lag": [r["send_lag_ms"] for r in arrived],
    }


@settings(deadline=None, max_examples=60)
@given(requests())
def test_steps_agree_with_the_reference(rows: list[dict[str, Any]]) -> None:
    found = step_row(frame(rows))
    for name, expected in reference_step(rows).items():
        assert found[name] == pytest.approx(expected), name


@settings(deadline=None, max_examples=60)
@given(requests())
def test_percentiles_agree_with_the_reference(rows: list[dict[str, Any]]) -> None:
    found = by_metric(frame(rows))
    for metric, samples in reference_samples(rows).items():
        if not samples:
            assert metric not in found
            continue
        got, ordered = found[metric], sorted(samples)
        finite = [s for s in samples if math.isfinite(s)]
        assert got["n"] == len(samples), metric
        assert got["min"] == pytest.approx(min(finite) if finite else None), metric
        assert got["mean"] == pytest.approx(sum(finite) / len(finite) if finite else None), metric
        assert got["max"] == pytest.approx(ordered[-1] if math.isfinite(ordered[-1]) else None), metric
        for name, q in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95)):
            true = ordered[math.ceil(q * len(ordered) - 1e-9) - 1]
            if math.isinf(true):
                assert (got[f"{name}_gate"], got[name]) == ("beyond_timeout", None)
            elif got[f"{name}_gate"] == "needs_n":
                assert got[name] is None
                assert got[f"{name}_needs_n"] > 0
            else:
                assert got[name] == pytest.approx(true), metric


def test_multi_token_chunks_have_the_pace_of_their_tokens() -> None:
    """AT-8: 16 chunks of 4 tokens every 40 ms are 10 ms a token, whatever the chunks do."""
    chunks = tuple(100.0 + 40.0 * i for i in range(16))
    found = by_metric(
        frame([row(at_s=0.1 * i, seq=i, chunks_ms=chunks, tokens=(4,) * 16) for i in range(50)])
    )
    assert found["tpot"]["p50"] == pytest.approx(10.0)
    assert found["itl"]["p50"] == pytest.approx(10.0)
    assert found["itl"]["n"] == 50 * 15 * 4
    assert found["chunk_gap"]["p50"] == pytest.approx(40.0)
    assert found["chunk_gap"]["n"] == 50 * 15


def test_rate_population_is_tokens_in_the_window() -> None:
    """AT-23 in small: ten streams at 100 tokens/s each; ramp and drain are cut off exactly."""
    offsets = tuple(10.0 * (i + 1) for i in range(3000))
    rows = [row(at_s=-5.0 - i * 0.001, seq=i, chunks_ms=offsets, phase="warmup") for i in range(10)]
    found = step_row(frame(rows))
    assert found["output_tokens_per_s"] == pytest.approx(1000.0, rel=1e-3)
    assert found["concurrency_mean"] == pytest.approx(10.0)
    assert found["ok"] == 0


def test_useful_tokens_leave_out_failed_answers() -> None:
    rows = [row(at_s=1, seq=0), row(at_s=2, seq=1, status="error"), row(at_s=3, seq=2, status="cancelled")]
    found = step_row(frame(rows))
    assert found["output_tokens_per_s"] == pytest.approx(0.3)
    assert found["output_tokens_per_s_served"] == pytest.approx(0.9)


def test_a_request_cut_by_the_client_is_a_censored_failure() -> None:
    rows = [row(at_s=0.1 * i, seq=i) for i in range(40)] + [
        row(at_s=9, seq=40, status="cancelled", chunks_ms=())
    ]
    found = frame(rows)
    assert by_metric(found)["ttft"]["n_failed"] == 1
    assert step_row(found)["error_rate"] == pytest.approx(1 / 41)


def test_a_scheduled_request_without_a_sample_is_an_error() -> None:
    found = step_row(frame([row(at_s=1)], scheduled=4))
    assert (found["requests_scheduled"], found["errors"]) == (4, 3)


def test_never_sent_requests_are_failures_and_not_in_flight() -> None:
    rows = [row(at_s=1), row(at_s=2, seq=1, chunks_ms=(), status="error", sent_at=None, send_lag_ms=None)]
    found = step_row(frame(rows))
    assert found["request_rate_achieved"] == pytest.approx(0.1)
    assert found["concurrency_mean"] == pytest.approx(0.007)


def test_rows_in_any_order_give_the_same() -> None:
    rows = [
        row(at_s=0.1 * i, seq=i, chunks_ms=(40.0 + i, 50.0 + 2 * i), status="ok" if i % 7 else "error")
        for i in range(80)
    ]
    forward, backward = frame(rows), frame(rows[::-1])
    assert percentile_rows(forward, intervals=True) == percentile_rows(backward, intervals=True)
    assert step_row(forward) == step_row(backward)


def test_mismatch_is_seen_per_request() -> None:
    rows = [row(at_s=1, seq=0, output_tokens=4), row(at_s=2, seq=1)]
    assert step_row(frame(rows))["token_mismatch_share"] == 0.5


def test_windows_of_shards_are_what_they_share() -> None:
    first = shard(windows_s=[10, 20], scheduled=[5, 6])
    second = shard(windows_s=[9, 20], scheduled=[5, 6])
    (a, b) = step_windows([first, second])
    assert (a.seconds, a.requests_scheduled, a.load_value) == (9.0, 10, 2.0)
    assert b.seconds == 20.0


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.9, 100, 0.8256, 0.9448), (1.0, 20, 0.8389, 1.0), (0.0, 20, 0.0, 0.1611)],
)
def test_wilson_interval(share: float, n: float, low: float, high: float) -> None:
    assert wilson_interval(share, n) == pytest.approx((low, high), abs=2e-4)


def test_decisions() -> None:
    assert decide(0.96, 0.99, 0.95) == "pass"
    assert decide(0.90, 0.94, 0.95) == "fail"
    assert decide(0.93, 0.97, 0.95) == "undecided"


SLO = {"ttft_ms": 100.0, "tpot_ms": 20.0, "e2e_ms": None, "quantile": 0.9}


def test_goodput_counts_misses_of_every_kind() -> None:
    rows = [row(at_s=0.01 * i, seq=i) for i in range(96)]
    rows.append(row(at_s=5, seq=96, status="error"))  # failed
    rows.append(row(at_s=6, seq=97, chunks_ms=(150.0, 160.0)))  # late
    rows.append(row(at_s=7, seq=98, chunks_ms=(50.0,)))  # no TPOT: a missing metric is a miss
    rows.append(row(at_s=8, seq=99, status="cancelled"))  # cut
    found = frame(rows)
    judged = slo_row(found, SLO, percentile_rows(found, intervals=False))
    assert judged is not None
    assert judged["attainment"] == pytest.approx(0.96)
    assert judged["attainment_low"] < 0.96 < judged["attainment_high"]
    assert judged["goodput_rps"] == pytest.approx(9.6)
    assert judged["goodput_output_tokens_per_s"] == pytest.approx(28.8)
    assert judged["slo_id"] == slo_id(SLO) == "ttft<=100,tpot<=20@0.9"
    assert judged["decision"] in ("pass", "undecided")


def test_few_good_requests_leave_the_decision_open() -> None:
    found = frame([row(at_s=i, seq=i) for i in range(9)])
    judged = slo_row(found, SLO, percentile_rows(found, intervals=False))
    assert judged is not None
    assert (judged["attainment"], judged["decision"]) == (1.0, "undecided")
    assert slo_row(found, {"quantile": 0.9}, []) is None
