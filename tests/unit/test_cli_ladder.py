"""The results table: every width readable, every gate respected, origin and evidence always said."""

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from accelbench_assets.cli.ladder import cost_line, ladder_tables, print_ladder, verdict_line
from accelbench_assets.cli.results import RunResults, flat_steps, quantile_cell

RECORD: dict[str, Any] = {
    "run_id": "01a20082-00fc-7588-b6dd-0be6e4a62a04",
    "status": "succeeded",
    "model_id": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "quantization": "q4_1",
    "engine": "llamacpp",
    "engine_version": "2026.10.11549",
    "instance_type": "local-1a2b3c4d",
    "origin": "measured",
    "hardware": "observed",
    "evidence_level": "demo",
    "workload_id": "demo.chat@1",
    "validity": {
        "manifest": {"verdict": "pass", "value": 3, "limit": 3, "text": "All there."},
        "evidence": {"verdict": "warn", "value": 12, "limit": 20, "text": "Step 0 has 12 requests."},
    },
}


def percentiles(p50: float | None, p99_gate: str = "needs_n") -> dict[str, Any]:
    return {
        "p50": p50,
        "p50_gate": "published",
        "p90": p50,
        "p90_gate": "wide",
        "p99": 777.7 if p99_gate in ("published", "wide") else None,
        "p99_gate": p99_gate,
        "p99_needs_n": 2000 if p99_gate == "needs_n" else None,
    }


def step(index: int, load: float, kind: str = "closed", gate: str = "needs_n") -> dict[str, Any]:
    return {
        "step_index": index,
        "load_kind": kind,
        "load_value": load,
        "output_tokens_per_s": 38.21,
        "requests_per_s": 1.27,
        "error_rate": 0.004,
        "verdict": "pass",
        "percentiles": {m: percentiles(73.4, gate) for m in ("ttft", "tpot", "itl", "e2e")},
    }


def results(loads: list[float], cost: list[dict[str, Any]] | None = None, **kwargs: Any) -> RunResults:
    return RunResults(RECORD, [step(i, load, **kwargs) for i, load in enumerate(loads)], [], cost or [])


def rendered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: RunResults, width: int
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    print_ladder(what, host="AMD EPYC 7R13, 2 cores, 24 GiB")
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
@pytest.mark.parametrize("gate", ["needs_n", "beyond_timeout", "wide", "published"])
def test_it_is_readable_at_every_width(
    width: int, gate: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = rendered(capsys, monkeypatch, results([1.0, 2.0, 4.0], gate=gate), width)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    assert "…" not in shown, "a cell or heading was cut"
    flat = " ".join(shown.split())
    for text in (
        "C=1",
        "C=2",
        "C=4",
        "73.4",
        "~73.4",
        "38.2",
        "1.27",
        "0.4%",
        "llamacpp 2026.10.11549",
        "q4_1",
    ):
        assert text in flat
    for text in ("origin: measured", "evidence level: demo", "AMD EPYC 7R13", "local-1a2b3c4d"):
        assert text in flat
    assert ("778" in flat) == (gate in ("wide", "published"))
    assert ("needs >= 2000 requests" in flat or "n>=2000" in flat) == (gate == "needs_n")
    assert (">timeout" in flat) == (gate == "beyond_timeout")
    if "n>=2000" in flat:
        assert "n>=X: needs >= X requests" in flat


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0.01, 5000), min_size=1, max_size=14),
    st.integers(80, 200),
    st.sampled_from(["closed", "open"]),
    st.booleans(),
)
def test_any_ladder_fits_and_loses_no_step(loads: list[float], width: int, kind: str, priced: bool) -> None:
    values = [float(max(1, int(x))) if kind == "closed" else x for x in loads]
    cost = [
        {"step_index": 0, "tier": "declared", "usd_per_1m_output_full_hour": 0.61, "instance_hourly_usd": 0.1}
    ]
    tables, _ = ladder_tables(results(values, cost if priced else None, kind=kind), width)
    out = Console(width=width, file=io.StringIO())
    with out.capture() as capture:
        for table in tables:
            out.print(table)
    text = capture.get()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert text.count("38.2") == len(values)
    assert "…" not in text


def test_gates_of_one_cell() -> None:
    assert quantile_cell(percentiles(1.0), "p99") == "needs >= 2000 requests"
    assert quantile_cell(percentiles(1.0), "p99", compact=True) == "n>=2000"
    assert quantile_cell(percentiles(1.0, "beyond_timeout"), "p99") == ">timeout"
    assert quantile_cell(percentiles(12.345), "p90") == "~12.3"
    assert quantile_cell(percentiles(None), "p50") == "-"
    assert quantile_cell(None, "p50") == "-"
    # A value that a gate forbids is never shown, whoever wrote it.
    assert (
        quantile_cell({"p99": 5.0, "p99_gate": "needs_n", "p99_needs_n": 7}, "p99") == "needs >= 7 requests"
    )
    assert quantile_cell({"p99": 5.0, "p99_gate": "beyond_timeout"}, "p99") == ">timeout"


def test_cost_is_declared_or_absent_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = results([1.0], [{"step_index": 0, "missing_reason": "no price is known for local-1a2b3c4d"}])
    assert (
        cost_line(without) == "cost: none (no price is known for local-1a2b3c4d; --usd-per-hour declares one)"
    )
    priced = results(
        [1.0, 2.0],
        [
            {
                "step_index": 0,
                "tier": "on_demand",
                "usd_per_1m_output_full_hour": 9.9,
                "instance_hourly_usd": 2,
            },
            {
                "step_index": 0,
                "tier": "declared",
                "usd_per_1m_output_full_hour": 0.61,
                "instance_hourly_usd": 0.1,
                "instance_type": "local-1a2b3c4d",
                "price_as_of": datetime(2026, 11, 1, 12, tzinfo=UTC),
            },
        ],
    )
    shown = rendered(capsys, monkeypatch, priced, 160)
    assert re.search(r"\$/1M out\n.*declared", shown)
    assert "0.610" in shown
    assert "9.9" not in shown
    assert "cost: at 0.100 USD/h, this machine's declared price as of 2026-11-01" in shown
    assert "--usd-per-hour" not in shown, "the price may be of another run of this machine"
    priced.cost[1]["instance_type"] = "endpoint-12345678"
    assert "this endpoint's declared price" in cost_line(priced)
    listed = results([1.0], [{**priced.cost[0], "region": "us-east-1"}])
    assert cost_line(listed) == "cost: at 2.00 USD/h, on_demand in us-east-1"
    idle = {"step_index": 0, "instance_hourly_usd": 2.0, "missing_reason": "no output tokens were measured"}
    assert cost_line(results([1.0], [idle])) == "cost: none (no output tokens were measured)"
    assert "$/1M" not in rendered(capsys, monkeypatch, without, 160)


def test_verdict_line_names_every_rule_that_did_not_pass() -> None:
    assert verdict_line(RECORD) == "validity: 1 of 2 rules passed\n  warn: evidence: Step 0 has 12 requests."
    assert verdict_line({"validity": '{"a": {"verdict": "pass"}}'}) == "validity: 1 of 1 rules passed"


def test_flat_steps_have_gates_beside_values() -> None:
    rows, fields = flat_steps(results([1.0, 2.0]))
    assert rows[1]["ttft_p99"] is None
    assert rows[1]["ttft_p99_gate"] == "needs_n"
    assert {"step_index", "e2e_p50", "itl_p999_gate"} <= set(fields)
    assert flat_steps(RunResults(RECORD)) == ([], ["run_id", "step_index"])
