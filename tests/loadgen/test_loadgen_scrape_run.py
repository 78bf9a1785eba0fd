"""Pages read beside a run: they frame its requests, and outlive an interrupt, a kill and the reader's own end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadgen import workloads
from loadgen.plan import ScrapeTarget
from loadgen.recover import recover
from loadgen.scrape import texts
from tests.support.waiting import until

from .conftest import HANG_S, Result, Truth, finish, make_plan, start_run
from .page_reader import BUSY, MISSED, Page, lines, ok, page
from .test_loadgen_workers import children, gone

__all__ = ["page"]  # the fixture

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "10", "--gap-ms", "1", "--metrics-style", "vllm")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=HANG_S) as answer:
        return str(answer.read().decode())


def engine(server: Truth, replica_id: str = "a") -> ScrapeTarget:
    return ScrapeTarget("engine", replica_id, f"{server.url}/metrics")


def test_a_run_is_framed_by_the_pages_before_and_after_it(truth: Start, run: Run) -> None:
    server = truth(*FAST)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/metrics"
        workload = workloads.custom(concurrency=3, isl=32, osl=4, duration_s=2.2, warmup_s=0.2)
        targets = (engine(server), ScrapeTarget("dcgm", "node", nobody))
        before = get(f"{server.url}/metrics")
        result = run(make_plan(server.url, workload, scrape=targets))
        after = get(f"{server.url}/metrics")
    assert result.code == 0, result.error
    shard = result.shard
    first, second = shard["scrapes"]
    folder = result.out / "shard=000"
    assert sorted(path.name for path in folder.iterdir()) == [
        "part-000-000.parquet",
        "scrape-0.jsonl.gz",
        "scrape-1.jsonl.gz",
        "shard.json",
    ]
    rows = lines(folder / first["name"])
    read = sum(row["error"] is None for row in rows)
    assert (first["kind"], first["replica_id"], first["readings"]) == ("engine", "a", read)
    assert set(first["gaps"]) <= BUSY
    pages = [(row, text) for row, text in texts(rows)]
    assert pages[0][1] == before, "nothing was sent before it"
    assert pages[-1][1] == after, "everything was answered before it"
    assert before != after
    window = shard["steps"][0]
    assert rows[0]["at"] < window["phase_starts_ns"]["warmup"] < window["measure_end_ns"] < rows[-1]["at"], (
        "the clock is the samples' clock"
    )
    beside = [row for row in rows if row["when"] == "beside"]
    assert len(beside) >= 1
    assert len(beside) + first["gaps"].get(MISSED, 0) >= 2, "every second is read or counted as missed"
    assert second["readings"] == 0
    refused = second["gaps"].pop("it could not be read: Connection refused")
    assert refused + sum(second["gaps"].values()) >= 2
    assert shard["complete"]


def test_every_worker_frames_its_own_requests_and_only_the_first_reads_all_the_time(
    truth: Start, run: Run
) -> None:
    server = truth(*FAST)
    workload = workloads.custom(concurrency=4, isl=32, osl=4, duration_s=1.5, warmup_s=0.1)
    targets = (ScrapeTarget("dcgm", "node", f"{server.url}/metrics"), engine(server))
    before = get(f"{server.url}/metrics")
    result = run(make_plan(server.url, workload, scrape=targets, workers=2))
    after = get(f"{server.url}/metrics")
    assert result.code == 0, result.error
    found = [json.loads((result.out / f"shard=00{k}" / "shard.json").read_text())["scrapes"] for k in (0, 1)]
    assert [[entry["name"] for entry in of_shard] for of_shard in found] == [
        ["scrape-0.jsonl.gz", "scrape-1.jsonl.gz"],
        ["scrape-1.jsonl.gz"],
    ]
    rows = [lines(result.out / f"shard=00{k}" / "scrape-1.jsonl.gz") for k in (0, 1)]
    assert [row["when"] for row in rows[1]] == ["before", "after"]
    assert len(rows[0]) >= 3, "the two ends and what lies between"
    everything = [(row["at"], text) for of_shard in rows for row, text in texts(of_shard)]
    assert min(everything)[1] == before
    assert max(everything)[1] == after


def begun(truth: Start, shown: Page, tmp_path: Path) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A long run, read twice since it began, and the processes it started."""
    workload = workloads.custom(concurrency=2, isl=32, osl=4, duration_s=200, warmup_s=0.1)
    target = ScrapeTarget("engine", "a", shown.url)
    process, out = start_run(make_plan(truth(*FAST).url, workload, scrape=(target,)), tmp_path)
    shown.wait(3)  # when the third is asked for, two are in the file
    assert process.stdout is not None
    while (json.loads(process.stdout.readline()).get("completed") or 0) < 10:
        continue  # and some answers are in the spool
    return process, out, children(process.pid)


def test_an_interrupted_run_keeps_what_was_read(truth: Start, page: Any, tmp_path: Path) -> None:
    process, out, pids = begun(truth, page(ok(b"a 1\n")), tmp_path)
    assert len(pids) == 1
    process.send_signal(signal.SIGTERM)
    result = finish(process, out)
    assert result.code == 130
    (entry,) = result.shard["scrapes"]
    rows = lines(out / "shard=000" / entry["name"])
    assert len(rows) >= entry["readings"] == sum(row["error"] is None for row in rows) >= 1
    assert rows[-1]["when"] == "beside"
    assert gone(pids)


def test_the_reader_dies_with_a_killed_generator_and_its_pages_are_recovered(
    truth: Start, page: Any, tmp_path: Path
) -> None:
    process, out, pids = begun(truth, page(ok(b"a 1\n")), tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert gone(pids)
    folder = out / "shard=000"
    recover(folder)
    (entry,) = json.loads((folder / "shard.json").read_text())["scrapes"]
    rows = lines(folder / entry["name"])
    assert (entry["kind"], entry["readings"]) == ("engine", sum(row["error"] is None for row in rows))
    assert len(rows) >= 2
    assert [path.name for path in folder.glob(".*")] == []


def test_a_reader_that_is_killed_is_a_gap_and_no_failure(truth: Start, page: Any, tmp_path: Path) -> None:
    """It is killed while it waits for its first page, so that the load has not begun."""
    workload = workloads.custom(concurrency=2, isl=32, osl=4, duration_s=60, warmup_s=0.1, requests=20)
    slow = page(ok(b"a 1\n"), wait_s=1.0)
    target = ScrapeTarget("engine", "a", slow.url)
    process, out = start_run(make_plan(truth(*FAST).url, workload, scrape=(target,)), tmp_path)
    until(lambda: children(process.pid) and any(out.glob("shard=000/.scrape-*")))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    result = finish(process, out)
    assert result.code == 0, result.error
    (entry,) = result.shard["scrapes"]
    assert (entry["readings"], list(entry["gaps"])) == (
        None,
        ["the process that reads ended early (signal 9)"],
    )
    assert any("ended early" in warning for warning in result.shard["warnings"])
