"""How single cells of the results table are worded."""

import json

import pytest

from accelbench_assets.reports.results import judgement, quantile_cell


@pytest.mark.parametrize(
    ("low", "high", "gate", "note"),
    [
        (72.0, 92.0, "published", "72.0–92.0"),
        (72.0, 92.0, "wide", "72.0–92.0 wide"),
        (72.0, None, "published", "≥ 72.0"),  # the upper bound falls on a failure
        (None, None, "published", ""),  # one short run has no interval
    ],
)
def test_the_interval_under_a_value(low: float | None, high: float | None, gate: str, note: str) -> None:
    row = {"p50": 80.0, "p50_gate": gate, "p50_ci_low": low, "p50_ci_high": high, "p50_needs_n": None}
    cell = quantile_cell(row, "p50")
    assert (cell.text, cell.sort, cell.note) == ("80.0", 80.0, note)


def test_what_was_not_measured_is_not_zero() -> None:
    assert quantile_cell(None, "p50").sort is None
    assert quantile_cell(None, "p50").note == "not measured"


@pytest.mark.parametrize(
    ("rules", "step", "worst", "sentences"),
    [
        ({"a": {"verdict": "pass"}}, "pass", "pass", ()),
        ({"a": {"verdict": "warn", "text": "late"}}, "pass", "warn", ("a: late",)),
        ({"a": {"verdict": "pass"}}, "void", "void", ()),
        ({"a": "warn"}, None, "warn", ("a: warn",)),
        (None, None, "not judged", ()),
    ],
)
def test_the_worst_verdict_counts(
    rules: object, step: str | None, worst: str, sentences: tuple[str, ...]
) -> None:
    assert judgement(json.dumps(rules) if rules else None, step) == (worst, sentences)
