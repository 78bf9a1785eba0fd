"""What a message says, for people and for programs, with and without a record."""

from __future__ import annotations

import json

import pytest

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.notify.message import KIND, Ended, compose
from accelbench_assets.notify.tell import find_record, headline
from tests.notify.conftest import DAGSTER_RUN
from tests.support.runs import make_cell, make_record, put_run, write_derived

GATES = (("ttft", "published", "wide"), ("tpot", "published", "needs_n"), ("e2e", "wide", "wide"))
CELL = make_cell("llama-3.1-8b-instruct", "g6e.xlarge", "prd.chat@1", "vllm")


def test_a_success_says_what_ran_how_well_and_how_to_repeat_it() -> None:
    record = make_record(
        CELL, samples_rows=1200, run_cost_usd=1.234, reproduce_command="accelbench run --cell x"
    )
    figures = {"output tokens/s": 2417.4, "at": "8 concurrent", "TTFT p95 ms": 81.26}
    said = compose(
        Ended(DAGSTER_RUN, "success"), record, figures=figures, page_url="https://dagster.example/"
    )
    assert (
        said.subject == "AccelBench: succeeded: llama-3.1-8b-instruct on g6e.xlarge with vllm 1.0, prd.chat@1"
    )
    assert said.text.splitlines() == [
        said.subject,
        "Figures: output tokens/s 2,417, at 8 concurrent, TTFT p95 ms 81.3",
        "Cost: 1.23 USD",
        f"Cell: {CELL.key_text}",
        f"Run: {record['run_id']}",
        "Again: accelbench run --cell x",
        f"Page: https://dagster.example/runs/{DAGSTER_RUN}",
    ]
    document = json.loads(json.dumps(said.document))
    assert document["kind"] == KIND
    assert document["outcome"] == "success"
    assert document["status"] == "succeeded"
    assert document["figures"] == figures
    assert document["link"] == f"https://dagster.example/runs/{DAGSTER_RUN}"
    assert {document[name] for name in ("run_id", "cell_id", "cell_key")} == {
        record["run_id"], CELL.cell_id, CELL.key_text,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "status", "code", "text", "word", "why"),
    [
        ("failure", "infra_lost", "node_lost", "gpu-1 went.", "infra lost", "gpu-1 went. (node_lost)"),
        ("failure", "void", "errors", "Too many.", "void", "Too many. (errors)"),
        ("success", "does_not_fit", "does_not_fit", None, "does not fit", "does_not_fit"),
        ("canceled", "cancelled", None, "Asked to.", "cancelled", "Asked to."),
    ],
)
def test_the_records_own_status_counts(
    outcome: str, status: str, code: str | None, text: str | None, word: str, why: str
) -> None:
    record = make_record(CELL, status=status, failure_code=code, failure_text=text)
    said = compose(Ended(DAGSTER_RUN, outcome), record)
    assert said.subject.startswith(f"AccelBench: {word}: llama-3.1-8b-instruct on g6e.xlarge")
    assert f"Why: {why}" in said.text.splitlines()
    assert said.document["status"] == status


def test_what_is_not_measured_says_so() -> None:
    said = compose(Ended(DAGSTER_RUN, "success"), make_record(CELL, origin="simulated"))
    assert "Note: simulated, never ranked" in said.text
    assert "Note" not in compose(Ended(DAGSTER_RUN, "success"), make_record(CELL)).text


def test_without_a_record_the_dagster_run_speaks() -> None:
    said = compose(
        Ended(DAGSTER_RUN, "failure", partition_key=CELL.key_text, error="The lake is gone."), None
    )
    assert said.subject.startswith("AccelBench: failed: llama-3.1-8b-instruct on g6e.xlarge")
    assert "Why: The lake is gone." in said.text
    assert "Record: none was found" in said.text
    assert said.document["cell_key"] == CELL.key_text
    assert said.document["run_id"] is None
    assert compose(Ended("x", "canceled"), None).subject == "AccelBench: cancelled: a run of no known cell"
    assert "not-a-key" in compose(Ended("x", "failure", "not-a-key"), None).subject


def test_secrets_and_line_breaks_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary0123456789")
    record = make_record(
        CELL,
        status="failed",
        failure_text="token hf_canary0123456789 and canary-of-ours-1 " + "x" * 5000,
        reproduce_command="accelbench run --header 'Authorization: Bearer canary-bearer-2'",
    )
    said = compose(Ended(DAGSTER_RUN, "failure"), record, secrets=["canary-of-ours-1"])
    everything = said.subject + said.text + json.dumps(said.document)
    assert "canary" not in everything
    assert len(said.text) < 4000
    bare = compose(Ended(DAGSTER_RUN, "failure", "a\r\nBcc: x@y " + "z" * 500), None)
    assert "\n" not in bare.subject + bare.subject.replace("\r", "\n")
    assert len(bare.subject) <= 160


# -- from the lake -------------------------------------------------------------------------------------------


def test_headline_figures_are_those_of_the_fastest_step(local_lake: Lake) -> None:
    record = put_run(local_lake, make_record(CELL))
    ids = {"run_id": record["run_id"], "cell_id": record["cell_id"]}
    rates = [{**ids, "step_index": n, "load_kind": "closed", "load_value": 2.0**n, "output_tokens_per_s": rate}
             for n, rate in enumerate([100.0, 300.0, 200.0])]  # fmt: skip
    rows = [
        {**ids, "step_index": step, "metric": metric, "unit": "ms",
         "p50": 10.0 + step, "p50_gate": "published", "p90": 20.0 + step, "p90_gate": gate90,
         "p95": 30.0 + step, "p95_gate": gate95}
        for step in range(3)
        for metric, gate90, gate95 in GATES
    ]  # fmt: skip
    local_lake.write_run_table("run_steps", record, table_from_rows("run_steps", rates))
    local_lake.write_run_table("run_percentiles", record, table_from_rows("run_percentiles", rows))
    assert headline(local_lake, record) == {
        "output tokens/s": 300.0,
        "at": "2 concurrent",
        "TTFT p95 ms": 31.0,
        "TPOT p90 ms": 21.0,
    }


def test_there_are_no_figures_before_they_are_derived_or_of_a_failure(local_lake: Lake) -> None:
    record = make_record(CELL)
    assert headline(local_lake, record) == {}
    write_derived(local_lake, record)
    assert headline(local_lake, record)["output tokens/s"] == 1000.0
    assert headline(local_lake, {**record, "status": "void"}) == {}


def test_the_record_is_found_by_a_named_attempt_or_by_the_dagster_run(local_lake: Lake) -> None:
    named = put_run(local_lake, make_record(CELL))
    other = put_run(local_lake, make_record(CELL, dagster_run_id=DAGSTER_RUN))
    unknown = make_record(CELL)["run_id"]

    def found(*run_ids: str, dagster_run_id: str = DAGSTER_RUN) -> str | None:
        record = find_record(local_lake, Ended(dagster_run_id, "success", run_ids=run_ids))
        return record and record["run_id"]

    assert found(named["run_id"]) == named["run_id"]
    assert found(unknown, named["run_id"]) == named["run_id"]
    assert found() == other["run_id"]
    assert found(dagster_run_id="another") is None
