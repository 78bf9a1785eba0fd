"""AT-26: one event log; our compatibility columns equal the other tools' formulas.

The expected values are computed here by a second statement of each formula, in plain loops; the long test
lets the tools' own code compute them, where a virtual environment holds it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.bench.compat import GENAI_BENCH_TRIM, TOOLS, compat_rows
from accelbench_assets.bench.compat_log import LEVELS
from tests.acceptance.compat_log import Request, as_json, event_log, frame_of
from tests.support.optional import missing

ROOT = Path(__file__).resolve().parents[2]
Figures = dict[str, float]
Expected = dict[str, Figures]


# -- how each tool sums up ---------------------------------------------------------------------------------


def linear(values: list[float], scale: float = 1.0) -> Figures:
    """numpy's default percentile."""
    ordered, n = sorted(values), len(values)
    found: Figures = {"n": n, "mean": math.fsum(values) / n * scale}
    for name, level in LEVELS.items():
        place = level * (n - 1)
        low = math.floor(place)
        high = min(low + 1, n - 1)
        found[name] = (ordered[low] + (ordered[high] - ordered[low]) * (place - low)) * scale
    return found


def by_weight(pairs: list[tuple[float, float]]) -> Figures:
    """guidellm: the smallest value at which the sum of shares reaches the level; the sum is a float's."""
    total = sum(weight for _, weight in pairs)
    weights: dict[float, float] = {}
    for value, weight in pairs:
        weights[value] = weights.get(value, 0) + weight
    found: Figures = {"n": round(total), "mean": math.fsum(v * w for v, w in pairs) / total}
    for name, level in LEVELS.items():
        summed = 0.0
        for value in sorted(weights):
            summed += weights[value] / total
            if summed >= level:
                found[name] = value
                break
    return found


def loadgen(values_ns: list[int]) -> Figures:
    """MLPerf LoadGen: truncated index, truncated mean."""
    ordered, n = sorted(values_ns), len(values_ns)
    found: Figures = {"n": n, "mean": sum(ordered) // n / 1e6}
    for name, level in LEVELS.items():
        found[name] = ordered[int(n * level)] / 1e6
    return found


def rate(count: float, seconds: float, n: int) -> Figures:
    return {"n": n, "mean": count / seconds}


# -- the formulas ------------------------------------------------------------------------------------------


def good(log: list[Request]) -> list[Request]:
    return [one for one in log if one.ok and one.chunks]


def wall_s(log: list[Request]) -> float:
    return (max(one.sent + one.end for one in log) - min(one.sent for one in log)) / 1e6


def answer_s(log: list[Request]) -> float:
    return (max(o.sent + o.chunks[-1] for o in good(log)) - min(o.sent for o in good(log))) / 1e6


def vllm(log: list[Request]) -> Expected:
    ttft, tpot, itl, e2el = [], [], [], []
    for one in good(log):
        stamps = [at / 1e6 for at in one.chunks]
        ttft.append(stamps[0])
        e2el.append(stamps[-1])
        for before, after in pairwise(one.chunks):
            itl.append((after - before) / 1e6)
        if one.tokens > 1:
            tpot.append((stamps[-1] - stamps[0]) / (one.tokens - 1))
    n, out = len(good(log)), sum(one.tokens for one in good(log))
    inputs = sum(one.input_tokens for one in good(log))
    return {
        "ttft": linear(ttft, 1000),
        "tpot": linear(tpot, 1000),
        "itl": linear(itl, 1000),
        "e2el": linear(e2el, 1000),
        "request_throughput": rate(n, wall_s(log), n),
        "output_throughput": rate(out, wall_s(log), n),
        "total_token_throughput": rate(out + inputs, wall_s(log), n),
    }


def sglang(log: list[Request]) -> Expected:
    found = vllm(log)
    found["e2e_latency"] = found.pop("e2el")
    del found["total_token_throughput"]
    return found


def guidellm(log: list[Request]) -> Expected:
    answers = good(log)
    several = [one for one in answers if one.tokens > 1]
    return {
        "time_to_first_token_ms": by_weight([(1000 * (one.chunks[0] / 1e6), 1) for one in answers]),
        "time_per_output_token_ms": by_weight(
            [(1000 * (one.chunks[-1] / 1e6) / one.tokens, one.tokens) for one in answers]
        ),
        "inter_token_latency_ms": by_weight(
            [
                (1000 * (o.chunks[-1] / 1e6 - o.chunks[0] / 1e6) / (o.tokens - 1), o.tokens - 1)
                for o in several
            ]
        ),
        "request_latency": by_weight([(one.end / 1e6, 1) for one in answers]),
    }


def aiperf(log: list[Request]) -> Expected:
    answers, itl, gaps = good(log), [], []
    for one in answers:
        gaps += [(b - a) / 1000 for a, b in pairwise(one.chunks)]
        if one.tokens > 1:
            after = one.tokens - one.sizes[0]
            itl.append((one.chunks[-1] - one.chunks[0]) * 1000 / (after if after >= 1 else one.tokens - 1))
    n, span = len(answers), answer_s(log)
    return {
        "time_to_first_token": linear([one.chunks[0] / 1000 for one in answers]),
        "inter_token_latency": linear([value / 1e6 for value in itl]),
        "inter_chunk_latency": linear(gaps),
        "request_latency": linear([one.chunks[-1] / 1000 for one in answers]),
        "output_token_throughput_per_user": linear([1 / (value / 1e9) for value in itl if value]),
        "output_token_throughput": rate(sum(one.tokens for one in answers), span, n),
        "request_throughput": rate(n, span, n),
    }


def genai_perf(log: list[Request]) -> Expected:
    answers = good(log)
    itl = [
        round((o.chunks[-1] - o.chunks[0]) * 1000 / (o.tokens - 1))
        for o in answers
        if len(o.chunks) > 1 and o.tokens > 1
    ]
    n, span = len(answers), answer_s(log)
    return {
        "time_to_first_token": linear([one.chunks[0] / 1000 for one in answers]),
        "inter_token_latency": linear([value / 1e6 for value in itl]),
        "request_latency": linear([one.chunks[-1] / 1000 for one in answers]),
        "output_token_throughput_per_user": linear([1 / (value / 1e9) for value in itl if value]),
        "output_token_throughput": rate(sum(one.tokens for one in answers), span, n),
        "request_throughput": rate(len(log), span, len(log)),
    }


def genai_bench(log: list[Request]) -> Expected:
    answers, tpot = good(log), []
    for one in answers:
        decode = one.end / 1e6 - one.chunks[0] / 1e6
        if one.tokens > 1 and decode >= 0.001:
            tpot.append(decode / (one.tokens - 1))
    n, wall = len(answers), wall_s(log)
    as_they_ended = sorted(log, key=lambda one: one.sent + one.end)
    cut = int(len(log) * GENAI_BENCH_TRIM)
    kept = [one for one in as_they_ended[cut : len(log) - cut] if one.ok and one.chunks]
    return {
        "ttft": linear([one.chunks[0] / 1e6 for one in answers], 1000),
        "tpot": linear(tpot, 1000),
        "e2e_latency": linear([one.end / 1e6 for one in answers], 1000),
        "output_inference_speed": linear([1 / value for value in tpot]),
        "requests_per_second": rate(n, wall, n),
        "mean_output_throughput_tokens_per_s": rate(sum(one.tokens for one in answers), wall, n),
        "mean_output_throughput_tokens_per_s_trimmed": rate(sum(o.tokens for o in kept), wall, len(kept)),
    }


def inference_perf(log: list[Request]) -> Expected:
    ttft, tpot, itl, ntpot, latency = [], [], [], [], []
    for one in good(log):
        times = [at / 1e6 for at, size in zip(one.chunks, one.sizes, strict=True) for _ in range(size)]
        latency.append(one.end / 1e6)
        ntpot.append(one.end / 1e6 / one.tokens)
        if len(times) > 1:
            ttft.append(times[0])
            tpot.append((times[-1] - times[0]) / (one.tokens - 1))
            places = [at for at, size in zip(one.chunks, one.sizes, strict=True) for _ in range(size)]
            itl += [(b - a) / 1e6 for a, b in pairwise(places)]
    n, wall = len(good(log)), wall_s(log)
    return {
        "time_to_first_token": linear(ttft, 1000),
        "time_per_output_token": linear(tpot, 1000),
        "inter_token_latency": linear(itl, 1000),
        "normalized_time_per_output_token": linear(ntpot, 1000),
        "request_latency": linear(latency, 1000),
        "output_tokens_per_sec": rate(sum(one.tokens for one in good(log)), wall, n),
        "requests_per_sec": rate(n, wall, n),
    }


def mlperf(log: list[Request]) -> Expected:
    first, tpot = [], []
    for one in good(log):
        first.append((one.chunks[0] + one.lag) * 1000)
        if one.tokens > 1:
            tpot.append((one.chunks[-1] - one.chunks[0]) * 1000 // (one.tokens - 1))
    return {"first_token_latency": loadgen(first), "time_per_output_token": loadgen(tpot)}


FORMULAS: dict[str, Callable[[list[Request]], Expected]] = {
    "vllm bench serve": vllm,
    "sglang bench_serving": sglang,
    "guidellm": guidellm,
    "aiperf": aiperf,
    "genai-perf": genai_perf,
    "genai-bench": genai_bench,
    "inference-perf": inference_perf,
    "mlperf loadgen": mlperf,
}


def columns(log: list[Request], tool: str) -> Expected:
    """Our rows of *tool*, by metric."""
    return {
        row["metric"]: {name: row[name] for name in ("n", "mean", *LEVELS)}
        for row in compat_rows(frame_of(log))
        if row["tool"] == tool
    }


def check(ours: Expected, theirs: dict[str, dict[str, Any]]) -> None:
    """Every figure of *theirs* is in *ours*, equal but for the last bits of a float's sum."""
    for metric, figures in theirs.items():
        for name, value in figures.items():
            found = ours[metric][name]
            assert found is not None, (metric, name)
            assert math.isclose(found, value, rel_tol=1e-12, abs_tol=1e-12), (metric, name, found, value)


# -- the test ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("tool", FORMULAS)
def test_our_columns_equal_the_formula(tool: str, seed: int) -> None:
    log = event_log(seed)
    expected = FORMULAS[tool](log)
    ours = columns(log, tool)
    assert set(ours) == set(expected)
    check(ours, expected)


def test_the_order_in_which_samples_lie_does_not_matter() -> None:
    log = event_log(5)
    assert compat_rows(frame_of(log, shuffled=1)) == compat_rows(frame_of(log))


def test_gaps_that_are_not_kept_in_memory_are_read_again() -> None:
    log = event_log(6)
    assert compat_rows(frame_of(log, hold_bytes=0)) == compat_rows(frame_of(log))


def test_every_tool_is_covered_and_says_which_version_was_read() -> None:
    assert {tool for tool, _ in TOOLS} == set(FORMULAS)
    rows = compat_rows(frame_of(event_log(1)))
    assert all(row["tool_version"] and row["unit"] and row["step_index"] == 0 for row in rows)
    assert len({(row["tool"], row["metric"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_a_log_of_hardly_anything(requests: int) -> None:
    log = [Request(1000 * i, 0, [50_000, 60_000], [1, 2], 0) for i in range(requests)]
    for tool, formula in FORMULAS.items():
        check(columns(log, tool), formula(log))


def test_answers_of_one_token_leave_the_metrics_that_need_two_empty() -> None:
    log = [Request(0, 0, [50_000], [1], 10), Request(10, 0, [51_000], [1], 10)]
    ours = columns(log, "vllm bench serve")
    assert ours["ttft"]["n"] == 2
    for metric in ("tpot", "itl"):
        assert ours[metric] == {"n": 0, "mean": None, **dict.fromkeys(LEVELS)}
    assert columns(log, "inference-perf")["time_to_first_token"]["n"] == 0


def test_a_step_without_an_answer_has_no_columns() -> None:
    assert compat_rows(frame_of([Request(0, 0, [], [], 0, ok=False)])) == []


# -- the tools' own code -----------------------------------------------------------------------------------

PEERS = Path(os.environ.get("ACCELBENCH_PEERS") or ROOT / ".accelbench" / "peers")
"""A folder of virtual environments named after the tools they hold."""
INTERPRETERS = {
    "vllm bench serve": (ROOT / ".venv-vllm", PEERS / "vllm-bench"),
    **{
        tool: (PEERS / tool,)
        for tool in ("guidellm", "aiperf", "inference-perf", "genai-perf", "genai-bench")
    },
}


@pytest.mark.long
@pytest.mark.parametrize("tool", INTERPRETERS)
def test_our_columns_equal_what_the_tools_own_code_computes(tool: str) -> None:
    found = [place / "bin" / "python" for place in INTERPRETERS[tool] if (place / "bin" / "python").exists()]
    if not found:
        places = " or ".join(map(str, INTERPRETERS[tool]))
        pytest.skip(missing(f"a virtual environment with {tool} in {places}"))
    log = event_log(4)
    request = {"log": as_json(log), "wall_s": wall_s(log)}
    script = Path(__file__).with_name("compat_real.py")
    done = subprocess.run(
        [found[0], script, tool],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=script.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs
    check(columns(log, tool), theirs)
