"""An attempt ends in exactly one record, whatever happens to the command line or to its child. Real child processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from accelbench_assets.lake.lake import Lake

RUN = (
    "run",
    "--concurrency",
    "1",
    "--isl",
    "16",
    "--osl",
    "8",
    "--duration",
    "2",
    "--warmup",
    "0",
    "--no-publish",
)


class Started:
    """``accelbench run`` as a process; waits on what its lake and its children say, not on time."""

    def __init__(self, home: Path, *more: str) -> None:
        self.lake = Lake.open((home / "lake").as_uri())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "accelbench_assets.cli", *RUN, *more],
            env={"PATH": os.environ["PATH"], "HOME": str(home.parent), "ACCELBENCH_HOME": str(home)},
            cwd=home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, what: Callable[[], object]) -> None:
        end = time.monotonic() + 120
        while not what():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)

    def orchestrator(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # ended, or a zombie, between two looks
                found += [child] if "accelbench_assets.defs.tasks" in child.cmdline() else []
        return found

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=180)
        return self.process.returncode, out, err

    def only_record(self) -> dict[str, object]:
        (record,) = self.lake.run_records()
        assert self.lake.open_attempts() == []
        return record


@pytest.fixture
def started(home: Path) -> Iterator[Callable[..., Started]]:
    all_: list[Started] = []

    def start(*more: str) -> Started:
        all_.append(Started(home, *more))
        return all_[-1]

    yield start
    for one in all_:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_the_child_can_write_a_record(
    number: int, started: Callable[..., Started], home: Path
) -> None:
    run = started()
    run.wait_for(run.lake.open_attempts)
    run.process.send_signal(number)
    code, out, err = run.end()
    assert (code, out) == (130, "")
    record = run.only_record()
    assert (record["status"], record["failure_code"]) == ("cancelled", "interrupted")
    assert "Traceback" not in err
    assert not list(home.glob("request-*"))
    assert not list((home / "locks").glob("*"))


def test_a_child_killed_from_outside_is_recorded_and_explained(started: Callable[..., Started]) -> None:
    run = started()
    run.wait_for(run.orchestrator)
    for process in run.orchestrator():
        process.kill()
    code, _, err = run.end()
    assert code == 1
    assert "the process died (signal 9) without a result" in err
    assert run.only_record()["status"] == "infra_lost"


def test_a_failed_run_is_one_sentence_and_one_document(started: Callable[..., Started], home: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        run = started("--json", "--port", str(busy.getsockname()[1]))
        code, out, err = run.end()
    assert code == 1
    document = json.loads(out)
    assert document["run"]["status"] == "failed"
    assert document["run"]["failure_code"] == "port_busy"
    assert document["steps"] == []
    assert [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    assert run.only_record()["run_id"] == document["run"]["run_id"]
    assert not [c for c in out + err if ord(c) < 32 and c != "\n"]
