"""Real parts for these tests: the ground-truth server and the generator, each in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadgen import workloads
from loadgen.plan import Plan, Replica
from tests.support.lakes import s3_environment, s3_server

__all__ = ["s3_environment", "s3_server"]

ROOT = Path(__file__).parents[2]
HANG_S = 120.0
"""Bounds a hang and nothing else: no claim of these tests is about how fast the machine is."""
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass
class Truth:
    url: str
    process: subprocess.Popen[str]
    log_path: Path

    def log(self) -> dict[str, dict[str, Any]]:
        """Stop the server and read its log by request id."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(HANG_S)
        rows = map(json.loads, self.log_path.read_text().splitlines())
        return {row["request_id"]: row for row in rows if "request_id" in row}


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[Callable[..., Truth]]:
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> Truth:
        log = tmp_path / f"truth-{len(started)}.jsonl"
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "truth",
            "--exit-with-parent",
            "--log",
            str(log),
            *options,
        ]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV, cwd=tmp_path
        )
        started.append(process)
        assert process.stdout is not None
        return Truth(json.loads(process.stdout.readline())["url"], process, log)

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@dataclass
class Result:
    code: int
    events: list[dict[str, Any]]
    error: str
    out: Path

    @property
    def shard(self) -> dict[str, Any]:
        return json.loads((self.out / "shard=000" / "shard.json").read_text())

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for part in self.shard["parts"]:
            table = pq.read_table(self.out / "shard=000" / part["name"])
            for name in ("scheduled_at", "sent_at"):  # as integers: Python's datetime has no nanoseconds
                at = table.schema.get_field_index(name)
                table = table.set_column(at, name, table[name].cast(pa.int64()))
            found += table.to_pylist()
        return found

    def measured(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["phase"] == "measure"]


def make_plan(url: str | list[str], workload: workloads.Workload, **changes: Any) -> Plan:
    urls = [url] if isinstance(url, str) else url
    fields: dict[str, Any] = {
        "run_id": "run-test",
        "model": "truth",
        "replicas": tuple(Replica(one.partition("://")[2], one) for one in urls),
        "steps": workload.steps(),
        "workload": workload.document,
        "workload_id": workload.id,
        "workload_hash": workload.hash,
        "seed": 7,
        "request_timeout_s": workload.request_timeout_s,
        "idle_timeout_s": workload.idle_timeout_s,
        "deadline_s": HANG_S - 10,
        "null_server": False,  # a second of its own after each run; asked for where it is tested
    }
    return Plan(**{**fields, **changes})


def start_run(
    plan: Plan, tmp_path: Path, env: dict[str, str] | None = None
) -> tuple[subprocess.Popen[str], Path]:
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(plan.to_json())
    command = [
        sys.executable,
        "-m",
        "loadgen",
        "run",
        "--plan",
        str(path),
        "--out",
        str(out),
        "--progress",
        "json",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENV, **(env or {})},
        cwd=tmp_path,
    )
    return process, out


def finish(process: subprocess.Popen[str], out: Path, limit_s: float = HANG_S) -> Result:
    stdout, stderr = process.communicate(timeout=limit_s)
    return Result(process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr, out)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    def go(plan: Plan, env: dict[str, str] | None = None) -> Result:
        return finish(*start_run(plan, tmp_path, env), max(HANG_S, plan.deadline_s + 10))

    return go
