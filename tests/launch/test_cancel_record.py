"""``cancel`` waits for one record by its own key: it does not list the lake at every look."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.cli import cancel
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.storage import LocalStorage
from tests.support.runs import attempt, make_record
from tests.support.waiting import until


class Counting(LocalStorage):
    """Counts what is listed and what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed: list[str] = []
        self.reads: list[str] = []

    def list(self, prefix: str) -> Any:
        self.listed.append(prefix)
        return super().list(prefix)

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


@pytest.fixture
def storage(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "lake")


def test_only_the_runs_own_record_is_read_until_it_is_there(storage: Counting) -> None:
    lake = Lake(storage)
    begun = attempt(make_record())
    run_id = str(begun["run_id"])
    lake.begin_attempt(begun)
    found: list[Any] = []
    storage.listed.clear()
    waiter = threading.Thread(target=lambda: found.append(cancel.ended(lake, run_id, 120.0)))
    waiter.start()
    until(lambda: len(storage.reads) >= 3, "several looks")
    assert storage.listed == []
    assert {key.rpartition("/")[2] for key in storage.reads} == {f"run_id={run_id}.json"}
    Lake(LocalStorage(storage.root)).finish(
        {**begun, "status": "cancelled", "failure_code": "interrupted", "failure_text": "A test."}
    )
    waiter.join(120.0)
    assert [one["status"] for one in found] == ["cancelled"]
    assert storage.listed == []


def test_a_record_that_does_not_come_in_time_is_none(storage: Counting) -> None:
    begun = attempt(make_record())
    assert cancel.ended(Lake(storage), str(begun["run_id"]), 0.0) is None
    assert storage.listed == []
