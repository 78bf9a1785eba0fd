"""SIGKILL at any moment: no engine left, nothing half-visible, one record for each attempt, and the next run works."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.cli import Cli

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kill")]

RUN = ["run", "--model", "smollm2-135m-instruct", "--concurrency", "1,2", "--isl", "16", "--osl", "8"]
SHORT = [*RUN, "--duration", "2", "--warmup", "0.5"]


def kill_everything(cli: Cli, whole: bool) -> None:
    """SIGKILL the command; with *whole*, the orchestrating child as well, so that nobody can clean up after it."""
    for process in cli.processes():
        words = " ".join(process.cmdline())
        if "accelbench_assets.cli" in words or (whole and "defs.tasks" in words):
            os.kill(process.pid, signal.SIGKILL)


def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    rng = random.Random(20261121)
    attempts = 0
    for index in range(10):
        process = cli.start(*SHORT)
        time.sleep(0.7 + rng.random() * 10.0)
        if process.poll() is None:
            kill_everything(cli, whole=index % 2 == 0)
        process.communicate(timeout=30)
        cli.wait_until_nothing_runs(5)
        attempts += 1
    before = {r["run_id"] for r in cli.json("runs", "--limit", "1000")["rows"]}
    document = cli.json(*SHORT)
    attempts += 1
    runs = cli.json("runs", "--limit", "1000")["rows"]
    assert len({r["run_id"] for r in runs}) == len(runs) == attempts, [
        (r["run_id"], r["status"]) for r in runs
    ]
    assert len(before) == attempts - 1
    good = {r["run_id"] for r in runs if r["status"] == "succeeded"}
    assert document["run"]["run_id"] in good
    for table in ("raw_samples", "run_steps", "run_percentiles", "benchmark_results", "cost_per_token"):
        seen = {row["run_id"] for row in cli.sql(f"select distinct run_id from {table}")}
        assert seen <= good, f"{table} shows {seen - good}"
    cli.wait_until_nothing_runs(5)
