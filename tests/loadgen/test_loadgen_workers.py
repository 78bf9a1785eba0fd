"""One schedule in several processes: shards on hosts, workers of one command, and how they end together."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from loadgen import workloads

from .conftest import HANG_S, Result, Truth, finish, make_plan, start_run

Start = Callable[..., Truth]
Run = Callable[..., Result]
FAST = ("--ttft-ms", "10", "--gap-ms", "1")


def shards(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("shard=*/shard.json"))]


def rows(out: Path, index: int) -> list[dict[str, Any]]:
    folder = out / f"shard={index:03d}"
    names = [part["name"] for part in shards(out)[index]["parts"]]
    columns = ["step_index", "seq", "request_id", "phase", "prompt_hash", "status", "replica_id"]
    return [row for name in names for row in pq.read_table(folder / name, columns=columns).to_pylist()]


def load_rows(out: Path, index: int) -> list[dict[str, Any]]:
    return [row for row in rows(out, index) if row["phase"] != "calibration"]


def test_workers_divide_one_schedule(truth: Start, run: Run) -> None:
    workload = workloads.custom(concurrency=[5, 2], isl=32, osl=4, duration_s=0.5, warmup_s=0.2)
    server = truth(*FAST)
    result = run(make_plan(server.url, workload, workers=3))
    assert result.code == 0, result.error
    documents = shards(result.out)
    assert [d["shard"] for d in documents] == [0, 1, 2]
    assert {d["shards"] for d in documents} == {3}
    assert {d["client"]["workers"] for d in documents} == {3}
    assert len({d["schedule_hash"] for d in documents}) == len({d["prompts_hash"] for d in documents}) == 1
    for index, users in enumerate(([2, 2, 1], [1, 1, 0])):
        steps = [d["steps"][index] for d in documents]
        assert [step["load_value"] for step in steps] == users
        assert [step["in_flight_max"] for step in steps] == users
        starts = [step["phase_starts_ns"]["measure"] for step in steps]
        assert max(starts) - min(starts) < 10_000_000, "windows begin together"
    seqs = [{row["seq"] for row in load_rows(result.out, shard)} for shard in range(3)]
    assert all(seq % 3 == shard for shard, found in enumerate(seqs) for seq in found)
    events = [event["event"] for event in result.events]
    assert (events.count("step_start"), events.count("step_end"), events.count("done")) == (2, 2, 1)
    ends = [event for event in result.events if event["event"] == "step_end"]
    assert sum(event["sent"] for event in ends) == sum(len(load_rows(result.out, s)) for s in range(3))
    assert result.events[-1]["rows"] == sum(d["rows"] for d in documents)


def test_shards_send_what_one_process_would(truth: Start, run: Run, tmp_path: Path) -> None:
    workload = workloads.custom(
        rate=80.0, arrival="poisson", isl=32, osl=2, duration_s=0.8, warmup_s=0.2, tail_s=2.0
    )
    plan = make_plan(truth(*FAST).url, workload)
    whole = due_of(run(plan).out, 0)
    together: dict[int, tuple[str, int]] = {}
    for index in (0, 1):
        part = due_of(run(dataclasses.replace(plan, shard=index, shards=2)).out, index)
        assert all(seq % 2 == index for seq in part)
        together |= part
    assert {seq: prompt for seq, (prompt, _) in together.items()} == {s: p for s, (p, _) in whole.items()}
    assert all(abs(due - whole[seq][1]) < 1000 for seq, (_, due) in together.items()), "due at the same times"


def due_of(out: Path, index: int) -> dict[int, tuple[str, int]]:
    """Of the window's requests by number: the prompt, and when it was due after the start of the step in ns."""
    document = json.loads((out / f"shard={index:03d}" / "shard.json").read_text())
    (step,) = document["steps"]
    table = pq.read_table(out / f"shard={index:03d}" / document["parts"][0]["name"])
    stamps = table["scheduled_at"].cast("int64").to_pylist()
    columns = [table[name].to_pylist() for name in ("phase", "seq", "prompt_hash")]
    start = step["phase_starts_ns"]["warmup"]
    rows = zip(*columns, stamps, strict=True)
    return {seq: (prompt, at - start) for phase, seq, prompt, at in rows if phase == "measure"}


def test_a_shard_begins_at_the_common_time(truth: Start, run: Run) -> None:
    workload = workloads.custom(concurrency=2, isl=32, osl=2, duration_s=0.3, warmup_s=0)
    at = time.time() + 2.5
    plan = make_plan(truth(*FAST).url, workload, shard=1, shards=2, start_at_unix=at)
    shard = run(plan).out / "shard=001" / "shard.json"
    document = json.loads(shard.read_text())
    begun_s = document["steps"][0]["phase_starts_ns"]["warmup"] / 1e9
    if begun_s > at + 0.002:  # a machine too busy to be ready in time says so
        assert any("late" in warning for warning in document["warnings"])
    else:
        assert begun_s == pytest.approx(at, abs=0.002)
    assert document["steps"][0]["load_value"] == 1


def long_run(truth: Start, tmp_path: Path) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A run of three workers in its window, and their process ids."""
    workload = workloads.custom(concurrency=3, isl=32, osl=4, duration_s=200, warmup_s=0.1)
    process, out = start_run(make_plan(truth(*FAST).url, workload, workers=3), tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["phase"] == "measure" and event["completed"] > 60:
            break
    return process, out, children(process.pid)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def gone(pids: list[int], within_s: float = HANG_S) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        states = [state(pid) for pid in pids]
        if all(one in ("", "Z") for one in states):
            return True
        time.sleep(0.05)
    return False


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_workers_and_keeps_what_they_measured(
    truth: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process, out, pids = long_run(truth, tmp_path)
    process.send_signal(number)
    result = finish(process, out)
    assert result.code == 130
    assert result.error == f"error: interrupted by {number.name}\n"
    documents = shards(out)
    assert len(documents) == 3
    assert all(not d["complete"] and d["rows"] > 3 for d in documents)
    assert gone(pids)


def test_workers_die_with_their_parent(truth: Start, tmp_path: Path) -> None:
    process, out, pids = long_run(truth, tmp_path)
    assert len(pids) == 3
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert gone(pids)
    assert [d["complete"] for d in shards(out)] == [False] * 3, "they wrote what they had"


def test_one_dead_worker_ends_the_others_and_is_named(truth: Start, tmp_path: Path) -> None:
    process, out, pids = long_run(truth, tmp_path)
    os.kill(pids[1], signal.SIGKILL)
    result = finish(process, out)
    assert result.code == 1
    assert result.error.startswith("error: worker 1 (killed by signal 9)")
    assert [d["shard"] for d in shards(out)] == [0, 2]
    assert gone(pids)


def test_workers_agree_on_the_end_of_a_warmup_by_state(truth: Start, run: Run) -> None:
    workload = workloads.custom(concurrency=4, isl=32, osl=8, duration_s=0.5, warmup_s=0.5)
    (step,) = workload.steps()
    step = dataclasses.replace(step, warmup_rule="state", warmup_max_s=15)
    server = truth("--ttft-ms", "60", "--gap-ms", "20")
    result = run(make_plan(server.url, workload, steps=(step,), workers=2))
    assert result.code == 0, result.error
    first, second = (d["steps"][0] for d in shards(result.out))
    if first["warmup"]["seconds"] < 15:
        assert {first["warmup"]["status"], second["warmup"]["status"]} == {"warm"}, (
            "both, or it would have gone on"
        )
    else:
        assert "not_warm" in {first["warmup"]["status"], second["warmup"]["status"]}, (
            "a machine that never settles"
        )
    starts = [one["phase_starts_ns"]["measure"] for one in (first, second)]
    assert abs(starts[0] - starts[1]) < 10_000_000


def test_what_no_worker_could_run_is_refused_before_any_starts(run: Run) -> None:
    workload = workloads.custom(concurrency=2, duration_s=0.5)
    result = run(make_plan("http://127.0.0.1:9", workload, workers=2, api_key_env="NOT_SET_ANYWHERE"))
    assert result.code == 2
    assert "NOT_SET_ANYWHERE" in result.error
    assert not result.out.exists()


def test_a_server_that_is_not_there_is_one_sentence(run: Run) -> None:
    workload = workloads.custom(concurrency=2, duration_s=0.5)
    result = run(make_plan("http://127.0.0.1:9", workload, workers=2))
    assert result.code == 1
    assert result.error.count("\n") == 1
    assert "127.0.0.1:9" in result.error
