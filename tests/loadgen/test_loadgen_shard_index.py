"""``--shard-index``: many pods, one plan file; and what else a generator meets in a pod."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from loadgen import workloads
from loadgen.limits import cpu_limit, throttled_s
from loadgen.plan import Plan, ScrapeTarget

from .conftest import ENV, HANG_S, Truth, make_plan
from .page_reader import BUSY

Start = Callable[..., Truth]
FAST = ("--ttft-ms", "10", "--gap-ms", "1")


def start(plan: Plan, tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    command = [sys.executable, "-m", "loadgen", "run", "--plan", str(path), "--out", str(tmp_path / "out")]
    return subprocess.Popen(
        [*command, "--progress", "quiet", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        cwd=tmp_path,
    )


def rows(out: Path, shard: int) -> list[dict[str, Any]]:
    folder = out / f"shard={shard:03d}"
    parts = json.loads((folder / "shard.json").read_text())["parts"]
    columns = ["seq", "request_id", "phase", "prompt_hash"]
    return [
        row for part in parts for row in pq.read_table(folder / part["name"], columns=columns).to_pylist()
    ]


def test_two_pods_of_one_plan_send_the_whole_schedule_and_nothing_twice(truth: Start, tmp_path: Path) -> None:
    server = truth(*FAST)
    workload = workloads.custom(
        rate=60.0, arrival="constant", isl=32, osl=2, duration_s=1.0, warmup_s=0.2, tail_s=2.0
    )
    plan = make_plan(server.url, workload, shards=2, null_server=False)
    pods = [start(plan, tmp_path, "--shard-index", str(k)) for k in (0, 1)]
    for pod in pods:
        _, error = pod.communicate(timeout=HANG_S)
        assert pod.returncode == 0, error
    out = tmp_path / "out"
    documents = [json.loads((out / f"shard=00{k}" / "shard.json").read_text()) for k in (0, 1)]
    assert [(d["shard"], d["shards"], d["complete"]) for d in documents] == [(0, 2, True), (1, 2, True)]
    assert len({d["schedule_hash"] for d in documents}) == 1
    first, second = ([row for row in rows(out, k) if row["phase"] != "calibration"] for k in (0, 1))
    seqs = [{row["seq"] for row in of_shard} for of_shard in (first, second)]
    assert not seqs[0] & seqs[1]
    together = seqs[0] | seqs[1]
    measured = sorted(row["seq"] for row in (*first, *second) if row["phase"] == "measure")
    assert len(measured) == 60, "60 arrivals a second for a second"
    assert measured == list(range(measured[0], measured[0] + 60))
    assert set(range(measured[-1])) <= together
    identities = [row["request_id"] for k in (0, 1) for row in rows(out, k)]
    assert len(set(identities)) == len(identities)
    assert set(identities) == set(server.log())


@pytest.mark.parametrize(
    ("shards", "options", "named"),
    [
        (2, ("--shard-index", "2"), "--shard-index: 2 is not in 0..1"),
        (2, ("--shard-index", "-1"), "--shard-index: -1 is not in 0..1"),
        (1, ("--shard-index", "1"), "--shard-index: 1 is not 0, the plan having one shard"),
        (2, ("--shard-index", "$(JOB_COMPLETION_INDEX)"), "invalid int value"),
    ],
)
def test_a_shard_the_plan_does_not_have_is_refused_before_anything_is_sent(
    truth: Start, tmp_path: Path, shards: int, options: tuple[str, ...], named: str
) -> None:
    plan = make_plan("http://127.0.0.1:9", workloads.custom(concurrency=2, duration_s=0.2), shards=shards)
    pod = start(plan, tmp_path, *options)
    _, error = pod.communicate(timeout=HANG_S)
    assert pod.returncode == 2
    assert named in error
    assert not (tmp_path / "out").exists()


def test_workers_are_shards_of_their_own_and_only_shard_0_of_their_plan_exists(tmp_path: Path) -> None:
    plan = make_plan("http://127.0.0.1:9", workloads.custom(concurrency=2, duration_s=0.2), workers=2)
    pod = start(plan, tmp_path, "--shard-index", "1")
    _, error = pod.communicate(timeout=HANG_S)
    assert (pod.returncode, "--shard-index: 1 is not 0" in error) == (2, True)
    pod = start(plan, tmp_path, "--shard-index", "0")
    _, error = pod.communicate(timeout=HANG_S)
    assert pod.returncode == 1, "it was tried: nobody answers there"
    assert "worker" in error


def test_it_belongs_to_a_plan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadgen", "run", "--url", "http://h:1", "--model", "m"]
    done = subprocess.run(
        [*command, "--concurrency", "1", "--out", str(tmp_path), "--shard-index", "0"],
        capture_output=True,
        text=True,
        env=ENV,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 2
    assert "--shard I/N" in done.stderr


# ------------------------------------------------------------------ a pod's surroundings


def test_no_home_no_settings_and_no_current_folder_are_needed(truth: Start, tmp_path: Path) -> None:
    url = truth(*FAST).url
    workload = workloads.custom(concurrency=2, isl=32, osl=2, duration_s=0.3, warmup_s=0.1)
    target = ScrapeTarget("engine", "a", f"{url}/metrics")
    plan, gone = make_plan(url, workload, scrape=(target,), workers=2, null_server=False), tmp_path / "gone"
    (tmp_path / "plan.json").write_text(plan.to_json())
    gone.mkdir()
    command = [sys.executable, "-P", "-m", "loadgen", "run", "--plan", str(tmp_path / "plan.json")]
    done = subprocess.run(
        ["/bin/sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *command, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": ENV["PYTHONPATH"],
            "TMPDIR": tempfile.gettempdir(),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=gone,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not gone.exists()
    for k in (0, 1):
        document = json.loads((tmp_path / "out" / f"shard=00{k}" / "shard.json").read_text())
        assert document["complete"]
        assert set(document["scrapes"][0]["gaps"]) <= BUSY
        assert document["scrapes"][0]["readings"] >= 2


def test_a_first_process_heeds_the_signal_that_ends_its_pod_from_its_first_line() -> None:
    """The kernel drops what process 1 does not handle, and a pod's generator is process 1 of its container."""
    code = (
        "import os, signal, sys\nos.getpid = lambda: 1\nsys.argv = ['loadgen', 'workloads']\n"
        "import loadgen.__main__\nos.kill(os.getppid(), 0)\nsignal.raise_signal(signal.SIGTERM)\nprint('deaf')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENV, timeout=HANG_S, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")


@pytest.mark.parametrize(
    ("files", "cores", "throttled"),
    [
        ({"cpu.max": "150000 100000\n", "cpu.stat": "usage_usec 9\nthrottled_usec 2500000\n"}, 1.5, 2.5),
        ({"cpu.max": "max 100000\n", "cpu.stat": "usage_usec 9\n"}, None, None),
        (
            {
                "cpu/cpu.cfs_quota_us": "200000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.stat": "nr_periods 7\nnr_throttled 1\nthrottled_time 1500000000\n",
            },
            2.0,
            1.5,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ({}, None, None),
        ({"cpu.max": "odd", "cpu.stat": ""}, None, None),
    ],
)
def test_the_quota_of_both_kinds_of_cgroups_is_read(
    tmp_path: Path, files: dict[str, str], cores: float | None, throttled: float | None
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert cpu_limit(tmp_path) == cores
    assert throttled_s(tmp_path) == (None if throttled is None else pytest.approx(throttled))
