"""SIGKILL at any moment: no engine left, nothing half-visible, one record for each attempt, and the next run works."""

import contextlib
import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.cli import Cli
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kill")]

RUN = ["run", "--model", "smollm2-135m-instruct", "--concurrency", "1,2", "--isl", "16", "--osl", "2"]
SHORT = [*RUN, "--duration", "3", "--warmup", "0.5"]


def kill_everything(cli: Cli, whole: bool) -> None:
    """SIGKILL the command; with *whole*, the orchestrating child as well, so that nobody can clean up after it."""
    for process in cli.processes():
        with contextlib.suppress(psutil.Error):  # it may end while we look at it
            words = " ".join(process.cmdline())
            if "accelbench_assets.cli" in words or (whole and "defs.tasks" in words):
                process.kill()


def registered(cli: Cli) -> set[str]:
    """Run ids of every attempt that reached the lake, by its files alone."""
    lake = cli.home / "lake"
    open_ones = {path.parent.name.removeprefix("run_id=") for path in lake.glob("_incoming/*/attempt.json")}
    return open_ones | {path.stem.removeprefix("run_id=") for path in lake.glob("runs/*/*.json")}


def until_registered(cli: Cli, known: set[str], process: subprocess.Popen[str]) -> None:
    """Until there is an attempt that is not among the *known*, or the command has ended."""
    until(lambda: registered(cli) - known or process.poll() is not None, "registered")


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.long)])
def test_sigkill_at_random_moments(tmp_path: Path, kills: int) -> None:
    cli = Cli(tmp_path / "home")
    rng = random.Random(kills)
    begun: set[str] = set()
    for index in range(kills):
        process = cli.start(*SHORT)
        if index:  # the first may be killed before it is registered, the others after
            until_registered(cli, begun, process)
        time.sleep(rng.random() * (9.0 if index else 3.0))
        if process.poll() is None:
            kill_everything(cli, whole=index % 2 == 0)
        process.communicate(timeout=120)
        begun |= registered(cli)
        cli.wait_until_nothing_runs()
    assert len(begun) >= kills - 1
    before = [r["run_id"] for r in cli.json("runs", "--limit", "1000")["rows"]]
    assert sorted(before) == sorted(begun)
    document = cli.json(*SHORT)
    runs = cli.json("runs", "--limit", "1000")["rows"]
    assert sorted(r["run_id"] for r in runs) == sorted(begun | {document["run"]["run_id"]})
    good = {r["run_id"] for r in runs if r["status"] == "succeeded"}
    assert document["run"]["run_id"] in good
    for table in ("raw_samples", "run_steps", "run_percentiles", "benchmark_results", "cost_per_token"):
        seen = {row["run_id"] for row in cli.sql(f"select distinct run_id from {table}")}
        assert seen <= good, f"{table} shows {seen - good}"
    cli.wait_until_nothing_runs()
