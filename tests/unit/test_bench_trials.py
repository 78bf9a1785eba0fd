"""Trials of a cell pooled, and two cells compared trial by trial, on a real lake and through the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from accelbench_assets.bench.request import RunVoid
from accelbench_assets.bench.summary import summarise_run
from accelbench_assets.bench.trials import compare_cells, pooled_rows, trials_of
from accelbench_assets.cli.main import main
from accelbench_assets.errors import LakeError
from accelbench_assets.lake.lake import Lake
from partitions.cell import BenchmarkCell
from tests.unit.test_bench_run import CELL, FakeLauncher, lake, run

__all__ = ["lake"]  # the fixture

SLOW = dataclasses.replace(CELL, engine_version="2.0")


def trial(lake: Lake, tmp_path: Path, cell: BenchmarkCell, first_ms: float, gap_ms: float = 10.0) -> str:
    """One succeeded, summarised run whose every request has this TTFT and gap."""
    launcher = FakeLauncher(chunks_ms=(first_ms, first_ms + gap_ms, first_ms + 2 * gap_ms))
    record, _ = run(lake, tmp_path, launcher, cell=cell)
    summarise_run(lake, record["run_id"])
    return str(record["run_id"])


def five(lake: Lake, tmp_path: Path, cell: BenchmarkCell, factor: float) -> list[str]:
    return [trial(lake, tmp_path, cell, factor * (50.0 + shift)) for shift in (0.0, 0.3, -0.3, 0.6, -0.6)]


def test_all_trials_are_pooled_and_each_is_shown(lake: Lake, tmp_path: Path) -> None:
    ids = five(lake, tmp_path, CELL, 1.0)
    trials = trials_of(lake, CELL.cell_id)
    assert trials.run_ids == tuple(sorted(ids))
    assert (trials.origin, trials.evidence_level) == ("measured", "demo")
    rows = pooled_rows(lake, trials)
    (p50,) = [r for r in rows if (r["load"], r["metric"], r["quantile"]) == ("C=1", "ttft", "p50")]
    assert p50["n"] == 5 * 40
    assert p50["value"] == pytest.approx(50.0)
    assert sorted(p50["trial_values"]) == pytest.approx([49.4, 49.7, 50.0, 50.3, 50.6])
    assert p50["between_trials"], "every trial is constant, so all spread is between trials"
    assert p50["ci_low"] < 49.7 < 50.3 < p50["ci_high"]
    (rate,) = [r for r in rows if (r["load"], r["metric"]) == ("C=2", "output_tokens_per_s")]
    assert rate["value"] == pytest.approx(12.0, rel=0.05)
    assert len(rate["trial_values"]) == 5


def test_superseded_runs_and_failures_are_left_out_and_counted(lake: Lake, tmp_path: Path) -> None:
    import pyarrow as pa

    from accelbench_assets.lake.tables import SCHEMAS
    from accelbench_assets.launch.base import utc_now

    first, second = (trial(lake, tmp_path, CELL, 50.0) for _ in range(2))
    with pytest.raises(RunVoid):
        run(lake, tmp_path, FakeLauncher(complete=False))
    judgement = {"run_id": first, "superseded_by": second, "reason": "a wrong driver", "at": utc_now()}
    rows = pa.Table.from_pylist([judgement], schema=SCHEMAS["supersessions"])
    lake.write_fact("supersessions", "2026-01-01", rows)
    trials = trials_of(lake, CELL.cell_id)
    assert trials.run_ids == (second,)
    assert trials.left_out == {"not succeeded": 1, "superseded": 1}
    with pytest.raises(LakeError, match="has no trials"):
        trials_of(lake, SLOW.cell_id)


def test_a_slower_cell_is_a_regression_and_itself_is_not(lake: Lake, tmp_path: Path) -> None:
    five(lake, tmp_path, CELL, 1.0)
    five(lake, tmp_path, SLOW, 1.3)
    a, b = trials_of(lake, CELL.cell_id), trials_of(lake, SLOW.cell_id)
    found = {(r["load"], r["metric"]): r for r in compare_cells(lake, a, b)}
    slower = found["C=1", "ttft_p50"]
    assert slower["verdict"] == "regression"
    assert slower["ratio"] == pytest.approx(1.3, rel=0.01)
    assert slower["ci_low"] < 1.3 < slower["ci_high"]
    assert found["C=1", "tpot_p50"]["verdict"] == "no_change"
    # 40 requests a trial publish no p95, so nothing may be said of it.
    assert found["C=1", "ttft_p95"]["verdict"] == "insufficient_data"
    same = {(r["load"], r["metric"]): r for r in compare_cells(lake, a, a)}
    assert same["C=1", "ttft_p50"]["verdict"] == "no_change"


def test_three_trials_can_signal_nothing(lake: Lake, tmp_path: Path) -> None:
    for shift in (0.0, 0.5, 1.0):
        trial(lake, tmp_path, CELL, 50.0 + shift)
        trial(lake, tmp_path, SLOW, 90.0 + shift)
    a, b = trials_of(lake, CELL.cell_id), trials_of(lake, SLOW.cell_id)
    found = {(r["load"], r["metric"]): r for r in compare_cells(lake, a, b)}
    assert found["C=1", "ttft_p50"]["verdict"] == "suspicious"
    assert found["C=1", "ttft_p50"]["trials_needed"] >= 5


def test_the_command_pools_compares_and_refuses(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    five(lake, tmp_path, CELL, 1.0)
    five(lake, tmp_path, SLOW, 1.3)

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--lake", lake.url, "--home", str(tmp_path / "home"), "trials", *words])
        said = capsys.readouterr()
        return int(str(ended.value.code or 0)), said.out, said.err

    code, out, _ = call(CELL.cell_id)
    assert code == 0
    assert "5 trials, measured, evidence level demo" in out
    code, out, _ = call(CELL.cell_id[:6], SLOW.key_text, "--json")
    document = json.loads(out)
    assert [cell["trials"] for cell in document["cells"]] == [5, 5]
    assert {row["verdict"] for row in document["rows"]} >= {"regression", "no_change"}
    code, out, _ = call(CELL.cell_id, SLOW.cell_id, "--format", "csv")
    assert out.startswith("cell_id_a,cell_id_b,origin_a,origin_b")
    code, out, _ = call(CELL.cell_id, SLOW.cell_id)
    assert "B / A" in out
    code, _, err = call("ffff")
    assert code == 2
    assert "No cell with runs is 'ffff'" in err
    code, _, err = call(CELL.cell_id, CELL.cell_id)
    assert code == 2
    assert "same one" in err
