"""Runs told over a real lake: listed, shown, explained, their logs, and what a command says of its own at the end."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.host import host_fingerprint
from tests.support.runs import attempt, make_cell, make_record
from tests.unit.cli_lake import call, lake, runs

__all__ = ["call", "lake", "runs"]  # the fixtures


def test_runs_lists_every_end_newest_first(runs: dict[str, dict[str, Any]], call: Any) -> None:
    listed = call("runs", "--json").rows
    assert {row["run_id"] for row in listed} == {r["run_id"] for r in runs.values()}
    assert [r["run_id"] for r in listed] == sorted((r["run_id"] for r in listed), reverse=True)
    assert [r["run_id"] for r in call("runs", "--status", "failed", "--json").rows] == [
        runs["failed"]["run_id"]
    ]
    assert len(call("runs", "--instance", "endpoint", "--json").rows) == 1
    assert len(call("runs", "--instance", "local", "--json").rows) == 3
    assert call("runs", "--model", "llama", "--json").rows == []
    assert len(call("runs", "--model", "smollm2-135m-instruct", "--limit", "2", "--json").rows) == 2
    assert "Port 1 is busy" in call("runs").out
    assert call("runs", "--status", "fialed").code == 2


def test_dead_attempts_are_closed_and_said_in_one_line(
    lake: Lake, runs: dict[str, dict[str, Any]], home: Path, call: Any
) -> None:
    dead = make_record(make_cell(), host_fingerprint=host_fingerprint())
    lake.begin_attempt({**attempt(dead), "lock": str(home / "locks" / "gone.lock")})
    foreign = make_record(make_cell(), host_fingerprint="00000000")
    lake.begin_attempt(attempt(foreign))
    shown = call("runs", "--json")
    states = {row["run_id"]: row["status"] for row in shown.rows}
    assert states[dead["run_id"]] == "infra_lost"
    assert states[foreign["run_id"]] == "running"
    assert f"Closed 1 run(s) whose process had died: {dead['run_id'][:13]}" in shown.err
    assert "Closed" not in call("runs").err


def test_show_has_results_rules_and_record(runs: dict[str, dict[str, Any]], call: Any) -> None:
    run_id = runs["llama"]["run_id"]
    document = json.loads(call("show", run_id, "--json").out)
    assert set(document) == {"run", "steps", "slo", "cost", "paths"}
    assert document["run"]["status"] == "succeeded"
    ttft = document["steps"][0]["percentiles"]["ttft"]
    assert ttft["p50_gate"] == "published"
    assert (ttft["p99"], ttft["p99_gate"], ttft["p99_needs_n"]) == (None, "needs_n", 2000)
    assert document["cost"][0]["tier"] == "declared"
    shown = call("show", run_id)
    for text in ("needs >= 2000 requests", "declared", "no errors", "C=2", "SLO attainment", run_id):
        assert text in shown.out
    read = list(csv.DictReader(io.StringIO(call("show", run_id, "--format", "csv").out)))
    assert [row["step_index"] for row in read] == ["0", "1"]
    assert read[0]["ttft_p99_gate"] == "needs_n"
    assert "this machine's declared price as of 2026-11-01" in shown.out
    assert "this machine has no price" not in shown.out, "it has one by now"
    unpriced = call("show", runs["truth"]["run_id"])
    assert "cost_missing_reason:    nobody declared one" in unpriced.out
    failed = call("show", runs["failed"]["run_id"])
    assert failed.code == 0
    assert "Port 1 is busy." in failed.out
    assert call("show", "00000000").code == 2


def test_an_ambiguous_run_lists_its_candidates(runs: dict[str, dict[str, Any]], call: Any) -> None:
    shared = runs["llama"]["run_id"][:4]  # the beginning is the time
    for words in (["show", shared], ["logs", shared]):
        shown = call(*words)
        assert (shown.code, shown.out) == (2, "")
        assert f"{shared!r} matches 4 runs" in shown.err
        assert all(record["run_id"] in shown.err for record in runs.values())


def test_a_failed_run_says_where_to_read_why(
    lake: Lake, runs: dict[str, dict[str, Any]], call: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from accelbench_assets.cli.launching import finish
    from accelbench_assets.cli.options import Format
    from accelbench_assets.cli.runs import in_short

    hint = f"`accelbench logs {runs['failed']['run_id'][:13]}`"
    assert hint in call("runs").err
    assert hint in call("show", runs["failed"]["run_id"]).err
    assert "accelbench logs" not in call("runs", "--status", "succeeded").err
    with pytest.raises(AccelBenchError, match="ended as failed"):
        finish(lake, runs["failed"], Format.table, error=None, publish=True)
    assert hint in capsys.readouterr().err
    assert in_short("Port 1 is busy.") == "Port 1 is busy."
    assert in_short("Port 1 is busy. Another engine has it.") == "Port 1 is busy…"
    assert in_short("x" * 61) == "x" * 59 + "…"
    assert in_short("") == ""


def test_an_outcome_points_only_at_what_is_there(
    lake: Lake, runs: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from accelbench_assets.cli.launching import finish
    from accelbench_assets.cli.options import Format

    finish(lake, runs["llama"], Format.table, error=None, publish=True)
    shown = capsys.readouterr().out
    assert "index.html" in shown
    assert "database:" in shown
    assert "|  accelbench query  |" in shown
    finish(lake, runs["truth"], Format.table, error=None, publish=False)
    shown = capsys.readouterr().out
    assert "not published: the next published run includes it" in shown
    assert "index.html" not in shown
    assert "database:" not in shown
    assert "|  accelbench query --origin any  |" in shown
    finish(lake, runs["truth"], Format.json, error=None, publish=False)
    assert set(json.loads(capsys.readouterr().out)["paths"]) == {"lake", "database", "page"}


def test_what_an_interrupt_left(runs: dict[str, dict[str, Any]]) -> None:
    from accelbench_assets.cli.launching import interrupted_line

    kept = interrupted_line("r1", runs["llama"], publish=True)
    assert "run r1 is kept; catalog and page are not up to date" in kept
    assert interrupted_line("r1", runs["llama"], publish=False) == "interrupted; run r1 is kept."
    assert (
        interrupted_line("r1", {"status": "cancelled"}, publish=True) == "interrupted; run r1 is cancelled."
    )
    assert interrupted_line("r1", None, publish=True) == "interrupted; run r1 is not recorded."


def test_logs(lake: Lake, runs: dict[str, dict[str, Any]], tmp_path: Path, call: Any) -> None:
    run_id = runs["llama"]["run_id"]
    log = tmp_path / "engine.log"
    log.write_text("listening\nAuthorization: Bearer abcdefghijkl\n")
    lake.put_log(run_id, "engine.log", log)
    assert [row["name"] for row in call("logs", run_id, "--json").rows] == ["engine.log"]
    shown = call("logs", run_id, "engine.log")
    assert shown.out.startswith("listening\n")
    assert "abcdefghijkl" not in shown.out
    assert json.loads(call("logs", run_id, "engine.log", "--json").out)["name"] == "engine.log"
    unknown = call("logs", run_id, "engin.log")
    assert unknown.code == 2
    assert "Did you mean engine.log?" in unknown.err
