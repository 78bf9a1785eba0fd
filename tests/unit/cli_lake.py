"""A lake with made-up runs, and the command line over it in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.cli import main as cli_main
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.host import local_instance
from partitions.cell import Deployment
from tests.support.runs import attempt, make_cell, make_price, make_record, put_prices, put_run

QUANTIZED = Deployment(quantization="q4_1")


class Shown:
    """What a call answered: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = json.loads(self.out)["rows"]
        assert isinstance(rows, list)
        return rows


@pytest.fixture
def lake(home: Path) -> Lake:
    return Lake.open((home / "lake").as_uri())


@pytest.fixture
def runs(lake: Lake) -> dict[str, dict[str, Any]]:
    """Two engines measured on the same model and workload, one simulated server, one failure."""
    here = local_instance()
    cells = {
        "llama": make_cell(instance=here, deployment=QUANTIZED),
        "vllm": make_cell(instance=here, engine="vllm"),
        "truth": make_cell(instance="endpoint-12345678", engine="truth"),
    }
    records = {name: make_record(cell) for name, cell in cells.items()}
    records["llama"]["cost_missing_reason"] = "this machine has no price"
    records["truth"] |= {"origin": "simulated", "hardware": "declared"}
    records["truth"]["cost_missing_reason"] = "nobody declared one"
    records["vllm"]["validity"] = {"evidence": {"verdict": "warn", "value": 1, "limit": 2, "text": "few"}}
    for name, record in records.items():
        lake.put_cell(cells[name])
        put_run(lake, record)
    failed = make_record(
        cells["llama"], status="failed", failure_code="port_busy", failure_text="Port 1 is busy."
    )
    lake.begin_attempt(attempt(failed))
    lake.finish(failed)
    put_prices(lake, [make_price(here, "0.5", tier="declared", region="local")])
    return {**records, "failed": failed}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shown]:
    monkeypatch.setenv("COLUMNS", "220")

    def run(*words: str) -> Shown:
        with pytest.raises(SystemExit) as end:
            cli_main.main(words)
        shown = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Shown(end.value.code, shown.out, shown.err)

    return run
