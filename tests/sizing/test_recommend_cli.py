"""The command: what it prints in each form, and what it says to wrong words."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import typer

from accelbench_assets.cli import state
from accelbench_assets.cli.recommend import objective, recommend
from accelbench_assets.cli.recommendation import ESTIMATED_FIELDS, MEASURED_FIELDS
from accelbench_assets.errors import UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.pricing.packaged import on_demand
from accelbench_assets.sizing.ask import Ask, find_instances, find_model
from accelbench_assets.sizing.recommend import Recommendation
from accelbench_assets.sizing.recommend import recommend as answer
from partitions.catalog import load_instances
from tests.sizing.lakes import measured, step
from tests.sizing.test_recommend import NAMED, price

Call = Callable[..., str]


@pytest.fixture
def lake(home: Any) -> Lake:
    return Lake.open((home / "lake").as_uri())


@pytest.fixture
def call(home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("COLUMNS", "200")
    state.reset()
    app = typer.Typer()
    app.command()(recommend)

    def run(*words: str) -> str:
        typer.main.get_command(app).main(list(words), standalone_mode=False)
        return capsys.readouterr().out

    return run


def document(text: str) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_json_has_the_question_both_lists_the_reasons_and_the_arithmetic(call: Call) -> None:
    found = document(call("--model", "llama-3.3-70b", "--slo", "chat", "--rps", "5", "--json"))
    assert found["ask"]["ttft_ms"] == 1000
    assert found["ask"]["tpot_ms"] == 50
    assert found["measured"] == []
    names = {row["instance_type"] for row in (*found["estimated"], *found["left_out"])}
    assert names == set(load_instances())
    for row in found["estimated"]:
        assert set(row) == set(ESTIMATED_FIELDS)
        assert row["origin"] == "estimated"
        packaged = on_demand()[row["instance_type"]]
        assert row["usd_per_hour"] == (
            None if packaged.usd_per_hour is None else float(packaged.usd_per_hour)
        )
        assert row["missing_reason"] == packaged.missing_reason
        low, high = row["usd_per_1m_output_full_hour_low"], row["usd_per_1m_output_full_hour_high"]
        if row["usd_per_hour"] is not None:
            assert low < row["usd_per_1m_output_full_hour"] < high < 4.001 * low
        assert row["longest_context"] >= row["max_model_len"]
        assert (row["usd_per_month"] is None) == (packaged.usd_per_hour is None)
    assert found["arithmetic"][0].startswith("model: llama-3.3-70b-instruct")
    assert all(len(row["remedies"]) == 2 for row in found["left_out"])


def test_the_same_words_print_the_same(call: Call) -> None:
    words = ("--model", "gpt-oss-120b", "--slo", "ttft=800,tpot=40", "--rps", "3")
    assert call(*words, "--json") == call(*words, "--json")
    assert call(*words) == call(*words)


def test_measured_comes_first_and_is_never_mixed_with_estimates(call: Call, lake: Lake) -> None:
    run = measured(lake, "g6e.xlarge", [step(8, 2.0, 300, 40)])
    words = ("--model", "llama-3.1-8b-instruct", "--slo", "chat")
    text = call(*words)
    assert text.index("Measured") < text.index("g6e.xlarge") < text.index("Estimated, not measured")
    found = document(call(*words, "--json"))
    assert [row["run_id"] for row in found["measured"]] == [run["run_id"]]
    assert {row["origin"] for row in found["measured"]} == {"measured"}
    assert {row["origin"] for row in found["estimated"]} == {"estimated"}
    rows = list(csv.DictReader(io.StringIO(call(*words, "--format", "csv"))))
    assert {row["origin"] for row in rows} == {"estimated"}
    assert tuple(rows[0]) == ESTIMATED_FIELDS
    rows = list(csv.DictReader(io.StringIO(call(*words, "--format", "csv", "--origin", "measured"))))
    assert [row["run_id"] for row in rows] == [run["run_id"]]
    assert tuple(rows[0]) == MEASURED_FIELDS


def test_one_instance_shows_its_arithmetic_or_why_not(call: Call) -> None:
    fits = call("--model", "llama-3.1-8b", "--instance", "g6e.xlarge")
    assert "How g6e.xlarge comes to this:" in fits
    assert "16,060,522,496 B = 14.96 GiB" in fits
    refused = call("--model", "deepseek-r1", "--instance", "g6e.xlarge")
    assert "What does not serve:" in refused
    assert "may use 41.13" in refused
    assert refused.count("instead:") == 2


def test_alike_instances_share_a_line(call: Call) -> None:
    text = call("--model", "deepseek-r1", "--instance", "g5")
    assert "g5.xlarge, g5.2xlarge, g5.4xlarge, g5.8xlarge, g5.16xlarge:" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--model", "gpt-oss-12b"),
            "--model: 'gpt-oss-12b' is not in the catalog. Did you mean .*gpt-oss-120b",
        ),
        (
            ("--model", "phi-4", "--instance", "p5.49xlarge"),
            "is no instance type. Did you mean .*p5.48xlarge",
        ),
        (("--model", "phi-4", "--slo", "chatt"), "no preset and no workload. Did you mean chat"),
        (("--model", "phi-4", "--slo", "decode.2k@1"), "has no objective"),
        (("--model", "phi-4", "--slo", "ttft=fast"), "is not an objective"),
        (
            ("--model", "phi-4", "--quantization", "fp9"),
            "--quantization: 'fp9' is not known. Did you mean fp8",
        ),
        (("--model", "phi-4", "--origin", "external"), "not one of measured, estimated"),
        (("--model", "phi-4", "--rps", "0"), "rps: 0.0 is not a positive number"),
        (("--model", "phi-4", "--isl", "90000"), "16,384 positions"),
        (("--model", "gpt-oss-20b", "--quantization", "bf16"), "mxfp4 checkpoint"),
    ],
)
def test_wrong_words_are_answered_with_near_ones(call: Call, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call(*words)


def test_objectives_of_presets_and_workloads() -> None:
    assert objective(None) == (None, None)
    assert objective("chat") == objective("prd.chat@1") == (1000, 50)
    assert objective("code") == (2000, None)
    assert objective("ttft=300") == (300.0, None)


def every_answer() -> list[Recommendation]:
    """What is recommended for each of six models on every instance of the catalog."""
    found = []
    for name in NAMED:
        row = find_model(name)
        assert row is not None
        ask = Ask(row, find_instances(None), isl=1024, osl=256, ttft_ms=1000.0, tpot_ms=50.0, rps=5.0)
        found.append(answer(ask, price))
    return found


def test_six_models_are_answered_on_every_instance_of_every_family() -> None:
    catalog = load_instances()
    answers = every_answer()
    assert len(answers) == len(NAMED) == 6
    families = set()
    for found in answers:
        estimated = {one.option.instance.instance_type for one in found.estimated}
        left_out = {one.instance_type for one in found.left_out}
        assert estimated | left_out == set(catalog), "every instance is estimated or left out"
        families |= {catalog[name].family for name in estimated | left_out}
    assert families == {row.family for row in catalog.values()}
