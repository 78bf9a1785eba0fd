"""``accelbench cells coverage``: the grid with states, reasons and counts, in each form."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from accelbench_assets.cli import state
from accelbench_assets.cli.cells import app
from accelbench_assets.cli.coverage import FIELDS, STATES
from accelbench_assets.errors import UsageError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import ESTIMATE_STATES, ORIGINS, STATUSES
from tests.sizing.lakes import measured, step
from tests.sizing.test_cells import cell
from tests.support.runs import make_price, make_record, put_prices

Call = Callable[..., str]


@pytest.fixture
def lake(home: Any) -> Lake:
    """A measured, a failed, an estimated, a too large, an unsold and an unknowable cell, and one of this machine."""
    lake = Lake.open((home / "lake").as_uri())
    measured(lake, "g6e.xlarge", [step(8, 0.7, 120, 28)])
    failed = cell("g6.xlarge")
    for one in (
        failed,
        cell("p5.4xlarge"),
        cell(model="llama-3.3-70b-instruct"),
        cell("g5.xlarge"),
        cell("p5.4xlarge", "prd.chat@1"),
        cell("local-1a2b3c4d"),
    ):
        lake.put_cell(one)
    lake.finish(
        make_record(failed, status="failed", failure_code="oom", failure_text="The engine ran out of memory.")
    )
    put_prices(
        lake,
        [make_price("p5.4xlarge", "6.88"), make_price("g5.xlarge", None, missing_reason="not sold here")],
    )
    return lake


@pytest.fixture
def call(lake: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    import typer

    monkeypatch.setenv("COLUMNS", "250")
    state.reset()

    def run(*words: str) -> str:
        typer.main.get_command(app).main(["coverage", *words], standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_every_cell_has_its_state_reason_and_basis(call: Call) -> None:
    found = json.loads(call("--json"))
    assert found["states"] == {
        "measured": 1, "estimated": 1, "does_not_fit": 1, "not_sold": 1, "failed": 1, "never_run": 2
    }  # fmt: skip
    assert all(tuple(row) == FIELDS and row["reason"] for row in found["rows"])
    by_state = {row["state"]: row for row in found["rows"] if row["state"] != "never_run"}
    assert {name: (row["basis"], row["attempts"]) for name, row in by_state.items()} == {
        "measured": ("attempt", 1),
        "failed": ("attempt", 1),
        "estimated": ("arithmetic", 0),
        "does_not_fit": ("arithmetic", 0),
        "not_sold": ("arithmetic", 0),
    }
    assert by_state["estimated"]["reason"].startswith("estimated, not measured: ")
    assert "may use 41.13" in by_state["does_not_fit"]["reason"]
    assert by_state["not_sold"]["reason"].startswith("not sold in us-east-1: not sold here")
    assert by_state["failed"]["reason"] == "The engine ran out of memory."
    never = {row["instance"]: row for row in found["rows"] if row["state"] == "never_run"}
    assert never["local-1a2b3c4d"]["reason"] == "never attempted"
    assert never["p5.4xlarge"]["reason"].startswith("never attempted; fits, with a KV cache of ")
    assert "prd.chat@1 does not say how long" in never["p5.4xlarge"]["reason"]
    assert {row["basis"] for row in never.values()} == {None}


def test_it_can_be_narrowed_and_written_as_a_table_and_as_csv(call: Call) -> None:
    text = call("--instance", "p5")
    assert text.startswith("2 cells: 1 estimated, 1 never_run")
    assert "estimated, not measured: " in " ".join(text.split())
    rows = list(csv.DictReader(io.StringIO(call("--state", "does_not_fit", "--format", "csv"))))
    assert [row["model"] for row in rows] == ["llama-3.3-70b-instruct"]
    assert tuple(rows[0]) == FIELDS
    assert json.loads(call("--model", "nothing", "--json")) == {"states": {}, "rows": []}
    assert call("--instance", "p5", "--model", "llama-3.1-8b-instruct", "--state", "measured") == ""
    with pytest.raises(UsageError, match="'done' is not one of measured, simulated"):
        call("--state", "done")


def test_looking_writes_nothing(call: Call, lake: Lake) -> None:
    before = lake.storage.list("facts")
    call("--json")
    assert lake.storage.list("facts") == before


def test_the_states_are_all_that_the_mart_can_say() -> None:
    folded = {"succeeded", "void", "cancelled", "timed_out"}
    assert {*STATES} == {*ORIGINS, *STATUSES, *ESTIMATE_STATES, "never_run"} - folded - {"unknown"}
