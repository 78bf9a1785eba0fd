"""``accelbench import`` through typer: output forms, dry run, files of several kinds, nothing half done."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from accelbench_assets.cli import main as cli_main
from accelbench_assets.cli.import_ import import_results

FILES = Path(__file__).with_name("files")


@pytest.fixture
def command(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command in an app of the command line's form, with a home and a lake of its own."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("import")(import_results)
    app.callback(invoke_without_command=True)(cli_main.options)
    monkeypatch.setattr(cli_main, "app", app)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["accelbench"])
    return home


def call(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli_main.main(["import", *words])
    shown = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, shown.out, shown.err


def rows(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    code, out, err = call([*words, "--format", "json"], capsys)
    assert code == 0, err
    found = json.loads(out)["rows"]
    assert isinstance(found, list)
    return found


def test_files_of_every_kind_at_once(command: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["vllm_bench_chat.json", "guidellm_concurrent.json", "aiperf_poisson.json", "genai_perf.json"]
    names += ["inference_perf_failures.json"]
    files = [str(FILES / name) for name in names]
    planned = rows([*files, "--dry-run"], capsys)
    assert [row["state"] for row in planned] == ["planned"] * 6
    assert not (command / "lake").exists()
    done = rows(files, capsys)
    assert [row["run_id"] for row in done] == [row["run_id"] for row in planned]
    assert [row["state"] for row in done] == ["imported"] * 6
    assert {row["origin"] for row in done} == {"external"}
    assert [row["state"] for row in rows(files, capsys)] == ["known"] * 6


def test_the_same_file_twice_and_a_copy_of_it(
    command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, copy = FILES / "vllm_bench_chat.json", tmp_path / "other name.json"
    shutil.copyfile(one, copy)
    assert [row["state"] for row in rows([str(one), str(one), str(copy)], capsys)] == [
        "imported",
        "known",
        "known",
    ]


def test_table_and_csv(command: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(FILES / "guidellm_concurrent.json")
    code, out, err = call([file], capsys)
    assert code == 0
    assert "C=2" in out
    assert "C=4" in out
    assert "imported" in out
    assert "accelbench query --origin external" in err
    code, out, err = call([file, "--format", "csv"], capsys)
    found = list(csv.DictReader(io.StringIO(out)))
    assert [row["load_value"] for row in found] == ["2.0", "4.0"]
    assert json.loads(found[0]["reasons"])["time_per_output_token_ms"].startswith("includes TTFT")
    assert err == ""


def test_one_wrong_file_and_nothing_is_imported(
    command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"completed": 3', encoding="utf-8")
    code, out, err = call([str(FILES / "vllm_bench_chat.json"), str(wrong)], capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {wrong} is not complete JSON")
    assert "hint: Was it cut short?" in err
    assert "Traceback" not in err
    assert not list(command.glob("lake/**/*.json"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--instance", "g66.xlarge"], "--instance: 'g66.xlarge' is neither"),
        (["--engine-version", "1"], "--engine-version needs --engine beside it"),
        (["--concurrency", "4", "--rate", "2"], "--concurrency and --rate exclude each other"),
        (["--concurrency", "0"], "--concurrency: 0 is not a number of at least 1"),
        (["--rate", "nan"], "--rate: nan is not a number"),
        (["--date", "yesterday"], "--date: 'yesterday' is no day"),
        (["--source-url", "ftp://x"], "--source-url: this is not an http or https URL"),
        (["--model", "A B"], "--model: 'A B' is not a model slug"),
        (["--format", "csv", "--json"], "--json and --format csv were both given"),
    ],
)
def test_flags_that_cannot_be(
    command: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call([str(FILES / "vllm_bench_chat.json"), *words], capsys)
    assert (code, out) == (2, "")
    assert says in err


def test_what_the_file_lacks_comes_from_flags(command: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        str(FILES / "oha.json"),
        "--rate",
        "20",
        "--date",
        "2026-10-01",
        "--model",
        "llama-3.1-8b-instruct",
    ]
    (row,) = rows([*words, "--instance", "g6e.xlarge"], capsys)
    assert (row["load_kind"], row["load_value"]) == ("open", 20.0)
    assert row["started_at"].startswith("2026-10-01T00:00:00")
    assert row["model"] == "llama-3.1-8b-instruct"
    assert "~g6e.xlarge~" in row["cell_key"]
    assert row["metrics"] == []
