"""``cancel`` of a run of this machine: its process is told as by Ctrl-C, and nobody else's is."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accelbench_assets.cli.cancel import holds, orchestrated_here
from accelbench_assets.cli.launching import attempt_lock
from accelbench_assets.lake.lake import Lake
from tests.support.cli import Cli
from tests.support.runs import attempt, make_record

RUN = (
    "run",
    "--no-publish",
    "--concurrency",
    "1",
    "--isl",
    "32",
    "--osl",
    "8",
    "--duration",
    "300",
    "--warmup",
    "0",
)


@pytest.fixture
def cli(home: Path) -> Iterator[Cli]:
    made = Cli(home)
    yield made
    made.wait_until_nothing_runs()


def test_a_run_of_this_machine_is_told_and_ends_as_cancelled(cli: Cli) -> None:
    lake = Lake.open((cli.home / "lake").as_uri())
    run = cli.start(*RUN)
    assert run.stderr is not None
    try:
        assert any(line.endswith("measuring\n") for line in run.stderr), "it ended before it measured"
        (open_one,) = lake.open_attempts()
        run_id = str(open_one["run_id"])
        shown = cli.run("cancel", run_id[-8:], "--json")
    except BaseException:
        run.send_signal(signal.SIGINT)
        raise
    finally:
        _, err = run.communicate(timeout=180)
    (row,) = json.loads(shown.stdout)["rows"]
    assert (row["run_id"], row["status"], row["failure_code"]) == (run_id, "cancelled", "interrupted")
    assert f"asked its process {run.pid} to stop" in shown.stderr
    assert run.returncode == 130, err
    assert lake.open_attempts() == []
    assert cli.run("cancel", run_id).returncode == 0


def test_a_dead_run_is_not_told_but_explained(cli: Cli) -> None:
    lake = Lake.open((cli.home / "lake").as_uri())
    with attempt_lock(cli.home, "gone") as (_, facts):
        pass
    dead = {**attempt(make_record()), **facts}
    lake.begin_attempt(dead)
    shown = cli.run("cancel", dead["run_id"], expect=1)
    assert "has no orchestrator any more" in shown.stderr
    assert "`accelbench reap`" in shown.stderr
    elsewhere = {**attempt(make_record()), **facts, "host_name": "another"}
    lake.begin_attempt(elsewhere)
    shown = cli.run("cancel", elsewhere["run_id"], expect=1)
    assert "is orchestrated on another machine" in shown.stderr
    foreseen = cli.json("reap", "--dry-run")["rows"]
    assert [row["run_id"] for row in foreseen] == [dead["run_id"]]
    assert lake.run_record(dead["run_id"]) is None
    assert [row["run_id"] for row in cli.json("reap")["rows"]] == [dead["run_id"]]


def test_only_a_holder_of_the_lock_is_signalled(home: Path) -> None:
    home.mkdir()
    with attempt_lock(home, "mine") as (_, facts):
        assert orchestrated_here(facts)
        assert not orchestrated_here({**facts, "host_name": "another"})
        assert not orchestrated_here({**facts, "host_fingerprint": "00000000"})
        assert holds(os.getpid(), facts["lock"])
        # A process that was given a dead one's number has the file not open.
        stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            assert not holds(stranger.pid, facts["lock"])
        finally:
            stranger.communicate(b"\n")
        assert not holds(stranger.pid, facts["lock"])
        assert not holds(0, facts["lock"])
    assert not holds(os.getpid(), facts["lock"])
