"""Tests of one group run in one process, those of one file too, and slow ones come first."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
import json, os
import pytest
from tests.support.grouping import pytest_collection_finish, pytest_collection_modifyitems
from tests.support.grouping import pytest_configure_node, pytest_xdist_make_scheduler

@pytest.fixture(autouse=True)
def _told(request):
    with open("ran", "a") as file:
        file.write(json.dumps([os.environ["PYTEST_XDIST_WORKER"], request.node.nodeid]) + chr(10))
"""
TESTS = """
import pytest

@pytest.mark.xdist_group("shared")
@pytest.mark.parametrize("n", range(4))
def test_grouped(n):
    pass

@pytest.mark.parametrize("n", range(4))
def test_of_this_file(n):
    pass
"""
SLOW = """
import pytest

@pytest.mark.slow
def test_slow():
    pass
"""


def test_a_group_and_a_file_run_on_one_worker_each(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: slow\n")
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(TESTS)
    (tmp_path / "test_z.py").write_text(SLOW)
    words = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "-q"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [json.loads(line) for line in (tmp_path / "ran").read_text().splitlines()]
    assert len(ran) == 33
    workers = {name: {worker for worker, test in ran if name in test} for name in ("grouped", "slow")}
    workers |= {
        name: {worker for worker, test in ran if test.startswith(f"test_{name}.py::test_of")}
        for name in "abcd"
    }
    assert {name: len(found) for name, found in workers.items()} == dict.fromkeys(workers, 1)
    assert {worker for worker, _ in ran} == {"gw0", "gw1"}
    first = dict(reversed(ran))
    assert "test_z.py::test_slow" in first.values()
