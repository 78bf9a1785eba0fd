"""What an import leaves in the lake and in the marts: external, demo, never ranked, once."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.errors import LakeError, UsageError
from accelbench_assets.importers.document import ImportRefused
from accelbench_assets.importers.model import Load
from accelbench_assets.importers.registry import read_file
from accelbench_assets.importers.store import Labels, Prepared, known, prepare, run_id, slug, write
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.layout import run_key
from accelbench_assets.reports import build_site
from accelbench_assets.sqlkit.duck import query
from accelbench_assets.sqlkit.marts import build_marts
from tests.support.runs import make_cell, make_price, make_record, put_prices, put_run, write_derived

FILES = Path(__file__).with_name("files")
G6 = "g6.xlarge"
CLOSED = Labels(load=Load("closed", 4))
ALL = sorted(path.name for path in FILES.iterdir() if path.suffix != ".md")


def ready(name: str, labels: Labels | None = None) -> list[Prepared]:
    source, runs = read_file(FILES / name)
    return prepare(source, runs, labels or Labels())


def put(lake: Lake, name: str, labels: Labels | None = None) -> list[Prepared]:
    found = ready(name, labels)
    assert all(write(lake, one) for one in found)
    return found


def rows(lake: Lake, text: str) -> list[dict[str, Any]]:
    return query(lake, text).to_pylist()


NEEDS_LOAD = ("aiperf_records.jsonl", "inference_perf_summary.json", "oha.json")


@pytest.mark.parametrize("name", ALL)
def test_every_file_goes_in_as_external_and_once(local_lake: Lake, name: str) -> None:
    labels = CLOSED if name in NEEDS_LOAD else None
    written = put(local_lake, name, labels)
    assert not any(write(local_lake, one) for one in ready(name, labels))
    records = local_lake.run_records()
    assert len(records) == len(written) == len({one.record["run_id"] for one in written})
    digest = hashlib.sha256((FILES / name).read_bytes()).hexdigest()
    for record in records:
        assert (record["origin"], record["evidence_level"], record["status"]) == (
            "external",
            "demo",
            "succeeded",
        )
        assert (record["triggered_by"], record["hardware"]) == ("import", None)
        assert f"{name} sha256:{digest} #" in record["trigger_ref"]
        assert record["loadgen_version"]
        assert {rule["verdict"] for rule in record["validity"].values()} == {"warn"}
    steps = rows(local_lake, "select * from run_steps")
    assert [step["verdict"] for step in steps] == ["warn"] * len(written)
    assert rows(local_lake, "select count(*) as n from benchmark_results where origin = 'external'") == [
        {"n": len(written)}
    ]


def test_own_figures_obey_our_gates_and_the_tools_are_kept_as_printed(local_lake: Lake) -> None:
    put(local_lake, "vllm_bench_completions.json")
    found = {row["metric"]: row for row in rows(local_lake, "select * from run_percentiles")}
    printed = json.loads((FILES / "vllm_bench_completions.json").read_text())
    tool, ours = found["vllm_bench.ttft"], found["ttft_from_send"]
    assert tool["p99"] == printed["p99_ttft_ms"]
    assert tool["p99_gate"] is None
    assert (tool["method"], tool["n"], tool["unit"]) == ("linear", 32, "ms")
    assert (ours["p50"], ours["p50_gate"]) == (printed["median_ttft_ms"], "wide")
    assert (ours["p99"], ours["p99_gate"], ours["p99_needs_n"]) == (None, "needs_n", 2000)
    assert "ttft" not in found  # an open loop: the tool does not time from the arrival


def test_a_failure_at_a_quantile_is_beyond_the_timeout(local_lake: Lake) -> None:
    (one,) = ready("aiperf_records.jsonl", CLOSED)
    write(local_lake, replace(one, run=replace(one.run, ok=5000)))  # enough requests for every gate
    (row,) = rows(local_lake, "select * from run_percentiles where metric = 'ttft'")
    assert (row["p99"], row["p99_gate"], row["p50_gate"], row["n_failed"]) == (
        None,
        "beyond_timeout",
        "wide",
        2,
    )


def test_rates_and_counts_of_the_step(local_lake: Lake) -> None:
    put(local_lake, "guidellm_failures.json")
    (step,) = rows(local_lake, "select * from run_steps")
    assert (step["ok"], step["errors"], step["requests_scheduled"]) == (33, 7, 40)
    assert step["error_rate"] == pytest.approx(7 / 40)
    assert (step["load_kind"], step["load_value"], step["request_rate_offered"]) == ("closed", 4.0, None)
    assert step["requests_per_s"] == pytest.approx(33 / step["window_s"], rel=0.05)
    assert 3 < step["concurrency_mean"] <= 4


def test_a_benchmark_of_a_ladder_is_a_cell_of_its_own(local_lake: Lake) -> None:
    two = put(local_lake, "guidellm_concurrent.json")
    assert [one.cell.workload for one in two] == [
        "external.guidellm.c2.isl31.osl16@1",
        "external.guidellm.c4.isl32.osl16@1",
    ]
    current = rows(local_lake, "select load_value from catalog where origin = 'external' order by load_value")
    assert [row["load_value"] for row in current] == [2.0, 4.0]


def test_an_import_never_ranks_and_never_speaks_for_a_measured_cell(local_lake: Lake) -> None:
    measured = make_record(make_cell(instance=G6))
    put_run(local_lake, measured, steps=1)
    write_derived(local_lake, measured, steps=1, slo="pass")
    labels = Labels(instance=G6, model="smollm2-135m-instruct", engine="llamacpp", engine_version="1.0")
    for name in ("vllm_bench_failures.json", "guidellm_poisson.json", "aiperf_concurrency.json"):
        put(local_lake, name, labels)
    put_prices(local_lake, [make_price(G6, "1")])
    for _ in range(2):  # from the queries, then from the built marts
        ranked = rows(local_lake, "select run_id from price_performance")
        assert ranked == [{"run_id": measured["run_id"]}]
        current = rows(local_lake, "select origin, cell_id from benchmark_results where is_current")
        assert sorted(row["origin"] for row in current) == ["external", "external", "external", "measured"]
        assert len({row["cell_id"] for row in current}) == 4
        costs = rows(local_lake, "select origin, usd_per_1m_output_full_hour as usd from cost_per_token")
        assert len(costs) == 4
        assert all(row["usd"] > 0 for row in costs)
        build_marts(local_lake)


def test_no_figure_of_an_import_is_missing_a_reason_for_its_cost(local_lake: Lake) -> None:
    put(local_lake, "vllm_bench_failures.json")
    (row,) = rows(local_lake, "select missing_reason from cost_per_token")
    assert row["missing_reason"] == "the file does not say which machine was measured"


def test_an_import_cut_short_shows_nothing_and_can_be_repeated(
    local_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = ready("vllm_bench_failures.json")
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", _refuse)
        with pytest.raises(LakeError):
            write(local_lake, one)
    assert rows(local_lake, "select * from run_steps") == []
    assert write(local_lake, one)
    assert len(rows(local_lake, "select * from run_steps")) == 1


def _refuse(*_: object) -> None:
    raise LakeError("The disk is full.")


def test_the_same_file_under_other_labels_is_refused(local_lake: Lake) -> None:
    put(local_lake, "vllm_bench_failures.json")
    (other,) = ready("vllm_bench_failures.json", Labels(instance=G6))
    with pytest.raises(
        ImportRefused, match=r"vllm_bench_failures\.json was imported before, as run .* other labels"
    ):
        known(local_lake, other)


def test_a_run_id_is_made_of_the_content_alone(local_lake: Lake) -> None:
    (one,) = ready("vllm_bench_failures.json")
    (other,) = ready("vllm_bench_failures.json", Labels(instance=G6, model="llama-3.1-8b-instruct"))
    assert one.record["run_id"] == other.record["run_id"]
    day = datetime(2026, 11, 22, tzinfo=UTC)
    assert run_key(run_id("a" * 64, 0, day)).startswith("runs/date=2026-11-22/")
    assert run_key(run_id("a" * 64, 0, None)).startswith("runs/date=1970-01-01/")
    ids = {run_id(digit * 64, index, day) for digit in "abc" for index in range(20)}
    assert len(ids) == 60


def test_what_nobody_said_is_unstated_and_no_two_files_share_a_machine() -> None:
    records = [ready(name)[0] for name in ("vllm_bench_chat.json", "vllm_bench_failures.json")]
    assert len({one.cell.instance for one in records}) == 2
    for one in records:
        assert one.cell.instance.startswith("endpoint-")
        assert (one.cell.engine, one.cell.engine_version, one.cell.revision) == ("unstated",) * 3
    guidellm, again = ready("guidellm_poisson.json")[0], ready("guidellm_failures.json")[0]
    assert guidellm.cell.instance != again.cell.instance  # other ports of the server


def test_labels_name_model_instance_and_engine() -> None:
    labels = Labels(
        instance="g6e.xlarge", model="llama-3.1-8b-instruct", engine="vllm", engine_version="0.33.0",
        source_url="https://user:secret@example.com/blog?token=x",
    )  # fmt: skip
    (one,) = ready("vllm_bench_failures.json", labels)
    assert one.cell.key_text.startswith("llama-3.1-8b-instruct@unstated~g6e.xlarge~vllm-0.33.0~tp1-auto-")
    assert one.record["model_id"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert one.record["hardware"] == "declared"
    assert one.record["source_url"] == "https://example.com/blog"
    assert one.record["cost_missing_reason"] is None


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (Labels(model="Not A Slug"), r"--model: "),
        (Labels(engine="llama.cpp"), r"--engine: "),
        (Labels(engine="vllm", engine_version="0 33"), r"--engine-version: "),
        (Labels(load=Load("closed", 8)), r"the file says a load of 4 \(closed loop\)"),
        (
            Labels(measured_at=datetime(2025, 1, 1, tzinfo=UTC)),
            r"measured on 2026-11-22, another day than --date",
        ),
    ],
)
def test_labels_that_cannot_be(labels: Labels, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ready("vllm_bench_failures.json", labels)


def test_a_file_without_a_load_needs_one() -> None:
    with pytest.raises(ImportRefused, match=r"oha\.json: the file does not say the load"):
        ready("oha.json")
    (one,) = ready("oha.json", Labels(load=Load("open", 20.0, "unstated")))
    assert one.cell.workload == "external.oha.o20@1"


@pytest.mark.parametrize(
    ("model", "made"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("/models/My Model_v2/", "my-model-v2"),
        (None, "unstated"),
        ("日本語", "model-"),
        ("..", "model-"),
        ("x" * 200, "x" * 80),
    ],
)
def test_slugs(model: str | None, made: str) -> None:
    assert slug(model).startswith(made)


def test_the_report_site_shows_where_an_import_comes_from(local_lake: Lake, tmp_path: Path) -> None:
    put(local_lake, "guidellm_concurrent.json")
    put(local_lake, "vllm_bench_completions.json")
    report = build_site(local_lake, tmp_path / "site", now=datetime(2026, 11, 23, tzinfo=UTC))
    assert report is not None
    shown = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site").glob("**/*.html"))
    assert "external" in shown
    assert "imported from guidellm_concurrent.json" in shown
