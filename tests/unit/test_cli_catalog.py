"""Results and cells over a real lake with made-up runs: query, compare, sql and cells show the same, and only what
may be shown."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.host import local_instance
from partitions.cell import BenchmarkCell
from tests.support.runs import make_cell, make_record, put_run
from tests.unit.cli_lake import QUANTIZED, call, lake, runs

__all__ = ["call", "lake", "runs"]  # the fixtures


def test_an_empty_lake_is_no_error(home: Path, call: Any) -> None:
    for words in (["runs"], ["query"], ["reap"]):
        shown = call(*words)
        assert (shown.code, shown.out) == (0, "")
        assert shown.err
        assert call(*words, "--json").rows == []
    assert call("runs", "--format", "csv").out.startswith("run_id,status,")
    assert call("query", "-q").err == ""


def test_a_table_of_80_columns_keeps_what_identifies_a_row(
    runs: dict[str, dict[str, Any]], call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run_id, cell_id = runs["llama"]["run_id"][:13], runs["llama"]["cell_id"]
    listed = call("runs")
    assert run_id in listed.out
    assert "simulated" in listed.out
    found = call("query", "--origin", "any")
    assert run_id in found.out
    assert "simulated" in found.out
    assert "llamacpp" not in found.out
    assert "version, quant," in found.err
    assert "TTFT p99" in found.err, "headings, not names of columns"
    assert cell_id in call("cells", "list", "--model", "smollm2-135m-instruct").out
    for shown in (listed, found):
        assert max(map(len, shown.out.splitlines())) <= 80


def test_filters_of_a_closed_set_refuse_what_is_not_in_it(runs: dict[str, dict[str, Any]], call: Any) -> None:
    for words, says in (
        (["query", "--tier", "spot"], "--tier: no price has 'spot'; there are: declared, on_demand."),
        (["query", "--region", "mars-1"], "--region: no price has 'mars-1'; there are: local, us-east-1."),
        (["cells", "list", "--state", "done"], "--state: 'done' is not one of measured, simulated, external"),
        (["cells", "list", "--status", "done"], "never_run"),
    ):
        shown = call(*words)
        assert shown.code == 2
        assert says in shown.err
    assert call("query", "--tier", "declared", "--region", "local", "--json").code == 0
    assert call("cells", "list", "--status", "simulated", "--json").rows


def test_query_shows_measured_only_unless_asked(runs: dict[str, dict[str, Any]], call: Any) -> None:
    rows = call("query", "--json").rows
    assert {row["run_id"] for row in rows} == {runs["llama"]["run_id"], runs["vllm"]["run_id"]}
    assert {row["origin"] for row in rows} == {"measured"}
    every = call("query", "--origin", "any", "--json").rows
    assert len(every) == len(rows) + 2
    assert "simulated" in call("query", "--origin", "any").out
    assert "2 rows of other origins" in call("query", "--model", "absent").err
    assert call("query", "--engine", "vllm", "--evidence", "standard", "--json").rows[0]["engine"] == "vllm"
    assert call("query", "--evidence", "demo", "--json").rows == []
    assert len(call("query", "--workload", "demo.chat", "--instance", "local", "--json").rows) == 4
    assert len(call("query", "--limit", "1", "--json").rows) == 1
    assert rows[0]["usd_per_1m_output_full_hour"] == pytest.approx(0.5 * 1e6 / 3600 / 1000)
    shown = call("query").out
    assert "n>=2000" in shown
    assert "declared" in shown


def test_query_sorts_by_any_column(runs: dict[str, dict[str, Any]], call: Any) -> None:
    up = [row["ttft_p50_ms"] for row in call("query", "--sort", "ttft_p50", "--json").rows]
    down = [row["ttft_p50_ms"] for row in call("query", "--sort", "ttft_p50_ms", "--desc", "--json").rows]
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    refused = call("query", "--sort", "ttft_p5O")
    assert refused.code == 2
    assert "ttft_p50_ms" in refused.err


def test_filters_are_values_not_sql(runs: dict[str, dict[str, Any]], call: Any) -> None:
    for attack in ("' or 1=1 --", "x'; drop view runs; --"):
        assert (
            call("query", "--engine", attack, "--workload", attack, "--instance", attack, "--json").rows == []
        )
        assert call("query", "--tier", attack).code == 2
        assert call("query", "--region", attack).code == 2
        assert call("query", "--sort", attack).code == 2
    assert call("compare", "--engines", f"vllm,{attack}").code == 2


def test_compare_runs_and_engines(runs: dict[str, dict[str, Any]], call: Any) -> None:
    ids = [runs["llama"]["run_id"], runs["vllm"]["run_id"]]
    document = json.loads(call("compare", "--runs", ",".join(ids), "--json").out)
    assert json.loads(call("compare", "--engines", "llamacpp,vllm", "--json").out) == document
    assert document["note"] == "no trial-level test: one run each"
    assert [s["run_id"] for s in document["subjects"]] == ids
    rows = {(row["load_value"], row["metric"]): row for row in document["rows"]}
    assert rows[1.0, "ttft_p50"]["ratios"] == [1.0, 1.0]
    assert rows[2.0, "ttft_p99"]["values"] == [None, None]
    assert rows[2.0, "ttft_p99"]["ratios"] == [None, None]
    assert rows[2.0, "ttft_p99"]["gates"][0] == {"gate": "needs_n", "needs_n": 2000}
    shown = call("compare", "--runs", ",".join(ids))
    assert "no trial-level test: one run each" in shown.out
    assert "x1.00" in shown.out
    assert "significan" not in shown.out
    assert [s["verdict"] for s in document["subjects"]] == ["pass", "warn"]
    assert re.search(r"^A  llamacpp .* · measured · pass · run ", shown.out, re.M)
    assert re.search(r"^B  vllm .* · measured · warn · run ", shown.out, re.M)
    read = list(csv.DictReader(io.StringIO(call("compare", "--runs", ",".join(ids), "--format", "csv").out)))
    assert {"value_a", "gate_b", "ratio_b"} <= set(read[0])
    assert {(row["run_id_a"], row["run_id_b"]) for row in read} == {(ids[0], ids[1])}


def test_compare_has_a_cost_row_or_the_reason_why_not(runs: dict[str, dict[str, Any]], call: Any) -> None:
    pair = f"{runs['llama']['run_id']},{runs['truth']['run_id']}"
    document = json.loads(call("compare", "--runs", pair, "--json").out)
    costs = [row for row in document["rows"] if row["metric"] == "usd_per_1m_output_full_hour"]
    assert [row["load_value"] for row in costs] == [1.0, 2.0]
    assert costs[0]["values"] == [pytest.approx(0.5 * 1e6 / 3600 / 1000), None]
    assert costs[0]["ratios"] == [1.0, None]
    reasons = [s["cost_missing_reason"] for s in document["subjects"]]
    assert reasons == [None, "nobody declared one; --usd-per-hour declares one"]
    shown = call("compare", "--runs", pair).out
    assert re.search(r"C=1 +\$/1M out +0\.139 +- +-", shown)
    assert "cost of B: none (nobody declared one" in shown
    assert "cost of A" not in shown


def test_compare_refuses_what_cannot_be_compared(
    lake: Lake, runs: dict[str, dict[str, Any]], call: Any
) -> None:
    other = make_record(make_cell(instance=local_instance(), workload="smoke.chat@1"))
    put_run(lake, other)
    pair = f"{runs['llama']['run_id']},{other['run_id']}"
    refused = call("compare", "--runs", pair)
    assert refused.code == 2
    assert "different workloads (demo.chat@1, smoke.chat@1)" in refused.err
    forced = call("compare", "--runs", pair, "--force")
    assert forced.code == 0
    assert "warning: the workloads differ" in forced.err
    mixed = call("compare", "--runs", f"{runs['llama']['run_id']},{runs['truth']['run_id']}")
    assert "warning: origin differs: measured, simulated" in mixed.err
    for words, says in (
        (["--runs", runs["llama"]["run_id"]], "two to four"),
        (["--runs", f"{runs['llama']['run_id']},{runs['failed']['run_id']}"], "no results to compare"),
        (["--engines", "llamacpp,sglang"], "no model and workload with a current run on each"),
        (["--engines", "llamacpp,truth"], "no model and workload"),
        (["--engines", "a,b", "--runs", "c,d"], "exactly one of"),
        (["--runs", "a,a"], "given twice"),
        (["--runs", "a,b", "--model", "m"], "--model cannot be combined with --runs"),
        (["--runs", "a,b", "--origin", "measured"], "--origin cannot be combined with --runs"),
        (["--runs", "a,b", "--instance", "local"], "--instance cannot be combined with --runs"),
        ([], "exactly one of"),
    ):
        shown = call("compare", *words)
        assert shown.code == 2
        assert says in shown.err


def test_sql_reads_everything_and_writes_nothing(
    runs: dict[str, dict[str, Any]], tmp_path: Path, call: Any
) -> None:
    rows = call("sql", "select run_id, count(*) as n from raw_samples group by 1 order by 1", "--json").rows
    assert {row["n"] for row in rows} == {40}
    assert call("sql", "select 1 as a, 2 as a", "--json").rows == [{"a": 1, "a_2": 2}]
    assert call("sql", "select 1 as a where false", "--json").rows == []
    assert (
        call("sql", "select 1.5 as a, null as b, [1, 2] as c", "--format", "csv").out
        == 'a,b,c\n1.5,,"[1, 2]"\n'
    )
    shown = call("sql", "select * from range(500) as t(i)")
    assert "first 200 of 500 rows" in shown.err
    query = tmp_path / "q.sql"
    query.write_text("select 'from a file' as said")
    assert call("sql", "--file", str(query), "--json").rows == [{"said": "from a file"}]
    wrong = call("sql", "selec 1")
    assert (wrong.code, wrong.out) == (2, "")
    assert "syntax error" in wrong.err
    for text in (
        "create table x as select 1",
        "copy (select 1) to '/tmp/accelbench-never.csv'",
        "select 1; select 2",
    ):
        assert call("sql", text).code == 2
    assert not Path("/tmp/accelbench-never.csv").exists()
    assert call("sql").code == 2
    assert call("sql", "--file", str(tmp_path / "absent")).code == 2


def test_cells_know_what_became_of_them(runs: dict[str, dict[str, Any]], call: Any) -> None:
    rows = {row["cell_key"]: row for row in call("cells", "list", "--json").rows}
    states = {name: rows[record["cell_key"]]["state"] for name, record in runs.items()}
    assert states == {"llama": "measured", "vllm": "measured", "truth": "simulated", "failed": "measured"}
    planned = call("cells", "list", "--suite", "catalog", "--json").rows
    assert len(planned) >= 50
    assert {row["state"] for row in planned} == {"never_run"}
    assert {row["family"] for row in call("cells", "list", "--instance", "g6e", "--json").rows} == {"g6e"}
    document = json.loads(call("cells", "show", runs["llama"]["cell_id"], "--json").out)
    assert document["deployment"] == QUANTIZED.to_dict()
    assert {run["run_id"] for run in document["runs"]} == {runs["llama"]["run_id"], runs["failed"]["run_id"]}
    planned_cell = json.loads(call("cells", "show", planned[0]["cell_key"], "--json").out)
    assert (
        BenchmarkCell.from_dict(
            {
                key: planned_cell[key]
                for key in (
                    "model",
                    "revision",
                    "instance",
                    "engine",
                    "engine_version",
                    "deployment",
                    "workload",
                )
            }
        ).key_text
        == planned[0]["cell_key"]
    )
    assert planned[0]["cell_key"] in call("cells", "show", planned[0]["cell_id"]).out
    assert call("cells", "show", "nothing").code == 2
    assert call("cells", "list", "--suite", "catalogue").code == 2


def test_cells_sync_dry_run_adds_nothing(lake: Lake, call: Any) -> None:
    rows = call("cells", "sync", "--suite", "catalog", "--dry-run", "--json").rows
    assert sum(row["new"] for row in rows) == sum(row["cells"] for row in rows) >= 50
    assert lake.cells() == []


def test_the_readmes_query_of_raw_samples_is_about_one_run(
    runs: dict[str, dict[str, Any]], call: Any
) -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (query,) = re.findall(r'accelbench sql "([^"]* from raw_samples[^"]*)"', text)
    assert "phase = 'measure'" in query
    rows = call("sql", query.replace("3f2a", runs["llama"]["run_id"][-6:]), "--json").rows
    assert [(row["step_index"], row["requests"]) for row in rows] == [(0, 20), (1, 20)]
