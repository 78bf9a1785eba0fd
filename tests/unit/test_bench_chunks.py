"""One pass over chunks in batches: the same as the flat arrays say, from a table and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.bench import chunks, frame
from accelbench_assets.bench.chunks import gap_hits
from accelbench_assets.bench.frame import Frame, StepWindow, frames
from accelbench_assets.bench.metrics import percentile_rows, step_row
from accelbench_assets.bench.slo import slo_row
from tests.unit.bench_samples import SECOND, STEP_APART, T0, row, table

COLUMNS_SINCE_2 = ["ended_ms", "planned_cancel_ms", "answer_hash"]


def window(step: int = 0, kind: str = "closed") -> StepWindow:
    start = T0 + step * STEP_APART
    return StepWindow(step, kind, 1.0, "none", start, start + 10 * SECOND, 0)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for seq in range(draw(st.integers(1, 15))):
        gaps = draw(st.lists(st.sampled_from([0, 3, 10_000, 70_000, 1_500_000]), max_size=6))
        step = draw(st.sampled_from([0, 0, 0, 1]))
        rows.append(
            row(
                at_s=draw(st.integers(-3000, 12_000)) / 1000,
                seq=seq,
                step=step,
                chunks_ms=tuple(sum(gaps[: i + 1]) / 1000 for i in range(len(gaps))),
                tokens=tuple(draw(st.sampled_from([0, 1, 1, 1, 2, 30])) for _ in gaps),
                status=draw(st.sampled_from(["ok", "ok", "error"])),
                phase=draw(st.sampled_from(["measure", "measure", "warmup", "calibration", "canary"])),
            )
        )
    return rows


@settings(deadline=None, max_examples=80)
@given(answers(), st.booleans())
def test_the_survey_agrees_with_loops(rows: list[dict[str, Any]], plain: bool) -> None:
    if plain:
        for made in rows:
            made["chunk_tokens"] = [1] * len(made["chunk_tokens"])
    found = Frame(table(rows), window())
    mine = sorted(
        (r for r in rows if r["step_index"] == 0 and r["phase"] in ("warmup", "measure")),
        key=lambda r: r["scheduled_at"],
    )
    survey = found.survey
    assert survey.chunks.tolist() == [len(r["chunk_offset_us"]) for r in mine]
    assert survey.tokens.tolist() == [sum(r["chunk_tokens"]) for r in mine]
    by_batch = np.zeros((2, 20), dtype=int)
    gaps: list[tuple[int, int]] = []
    for r in mine:
        for us, tokens in zip(r["chunk_offset_us"], r["chunk_tokens"], strict=True):
            at = r["sent_at"] + us * 1000 - T0
            if 0 <= at < 10 * SECOND:
                by_batch[int(r["status"] == "ok"), at * 20 // (10 * SECOND)] += tokens
        if r["status"] == "ok" and r["phase"] == "measure":
            stamps = r["chunk_offset_us"]
            gaps += [(b - a, m) for a, b, m in zip(stamps, stamps[1:], r["chunk_tokens"][1:], strict=False)]
    assert survey.tokens_by_batch.tolist() == by_batch.tolist()
    values, counts = survey.gaps.chunk_gaps()
    assert sorted(np.repeat(values, counts)) == sorted(float(gap) for gap, _ in gaps)
    values, counts = survey.gaps.token_gaps()
    assert sorted(np.repeat(values, counts)) == pytest.approx(
        sorted(g / m for g, m in gaps for _ in range(m))
    )
    offsets, tokens, sizes = found.gaps(found.ok & found.arrived)
    assert sorted(zip(offsets.tolist(), tokens.tolist(), strict=True)) == sorted(gaps)
    chosen = found.ok & found.arrived
    for limit in (0.0, 10_000.0, 1_500_000.0):
        hits = gap_hits(found, chosen, np.array([limit]), per_token=False)[0]
        ends = np.cumsum(sizes)
        assert hits.tolist() == [
            int((offsets[end - size : end] <= limit).sum()) for end, size in zip(ends, sizes, strict=True)
        ]


def many(**other: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        row(
            at_s=float(rng.uniform(-2, 12)),
            seq=i,
            step=i % 2,
            chunks_ms=tuple(np.cumsum(rng.integers(1, 40, size=rng.integers(0, 9))).astype(float)),
            phase="measure",
            **other,
        )
        for i in range(400)
    ]


def tables(samples: Any) -> list[Any]:
    found = frames(samples, [window(0), window(1)])
    return [(step_row(f), percentile_rows(f, intervals=True)) for f in found]


def test_files_and_tables_and_a_second_reading_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = table(many())
    for part in range(8):
        pq.write_table(whole.slice(50 * part, 50), tmp_path / f"part-{part}.parquet")
    files = ds.dataset(sorted(map(str, tmp_path.glob("*.parquet"))), format="parquet")
    expected = tables(whole)
    assert tables(files) == expected
    assert tables(pa.concat_tables([whole.slice(0, 7), whole.slice(7)])) == expected
    monkeypatch.setattr(frame, "HOLD_BYTES", 0)
    monkeypatch.setattr(frame, "_BATCH_ROWS", 16)
    assert tables(whole) == expected
    assert tables(files) == expected


def test_many_sizes_of_chunks_and_long_gaps_are_kept_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many()
    for index, made in enumerate(rows):
        made["chunk_tokens"] = [1 + (index + i) % 5 for i in range(len(made["chunk_tokens"]))]
    exact = tables(table(rows))
    monkeypatch.setattr(chunks, "_FINE_US", 10_000)
    monkeypatch.setattr(chunks, "_COUNTED_TOKENS", 2)
    for (step, found), (step_exact, expected) in zip(tables(table(rows)), exact, strict=True):
        assert step == step_exact
        for a, b in zip(found, expected, strict=True):
            assert a == pytest.approx(b)


def test_a_file_of_the_first_schema_reads_as_nulls() -> None:
    rows = many()
    old = table(rows).drop_columns(COLUMNS_SINCE_2)
    assert tables(old) == tables(table(rows))
    assert np.isnan(Frame(old, window()).numbers("ended_ms")).all()


def test_canaries_and_calibration_are_no_load() -> None:
    rows = [row(at_s=1.0), row(at_s=2.0, seq=1, phase="canary"), row(at_s=-1.0, seq=2, phase="calibration")]
    assert Frame(table(rows), window()).ok.size == 1


def test_a_planned_cancel_is_no_failure_and_no_latency() -> None:
    rows = [row(at_s=0.1 * i, seq=i) for i in range(60)]
    cut: dict[str, Any] = {
        "status": "cancelled",
        "error_class": None,
        "planned_cancel_ms": 65.0,
        "ended_ms": 65.0,
    }
    rows += [row(at_s=7.0 + 0.1 * i, seq=60 + i, chunks_ms=(50.0, 60.0), **cut) for i in range(20)]
    rows.append(row(at_s=9.5, seq=80, status="error", planned_cancel_ms=900.0))
    found = Frame(table(rows), window())
    step = step_row(found)
    assert (step["requests_scheduled"], step["planned_cancels"], step["errors"]) == (81, 20, 1)
    assert step["error_rate"] == pytest.approx(1 / 61)
    ttft = next(r for r in percentile_rows(found, intervals=False) if r["metric"] == "ttft")
    assert (ttft["n"], ttft["n_failed"]) == (61, 1)
    assert step["output_tokens_per_s_served"] == pytest.approx((61 * 3 + 20 * 2) / 10)
    assert step["output_tokens_per_s"] == pytest.approx(60 * 3 / 10)
    assert step["concurrency_mean"] == pytest.approx((61 * 0.07 + 20 * 0.065) / 10)
    judged = slo_row(found, {"ttft_ms": 100.0, "quantile": 0.5}, [])
    assert judged is not None
    assert judged["attainment"] == pytest.approx(60 / 61)


def gates(rows: list[dict[str, Any]]) -> dict[str, str]:
    itl = next(
        r for r in percentile_rows(Frame(table(rows), window()), intervals=True) if r["metric"] == "itl"
    )
    assert (itl["p99"] is None) == (itl["p99_gate"] not in ("published", "wide"))
    return {name: itl[f"{name}_gate"] for name in ("p50", "p95", "p99")}


def test_tails_of_derived_token_gaps_are_withheld() -> None:
    stamps = tuple(10.0 * (i + 1) for i in range(40))
    rows = [row(at_s=0.1 * i, seq=i, chunks_ms=stamps, token_count_source="usage") for i in range(90)]
    assert gates(rows) == {"p50": "published", "p95": "published", "p99": "published"}
    for made in rows[:10]:
        made["chunk_tokens"] = [2] * 40  # eighty tokens in forty chunks: split in proportion
    assert gates(rows) == {"p50": "published", "p95": "published", "p99": "derived"}
    for made in rows:
        made["token_count_source"] = "per_chunk_usage"  # the server said how many each chunk carries
    assert gates(rows)["p99"] == "published"
