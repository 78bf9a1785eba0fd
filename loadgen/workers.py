"""Several generator processes that divide one schedule: each is a shard, this is their parent.

Belongs here: starting them, letting steps and windows begin together, one stream of progress, signals, the ends.
Does not belong here: what a worker does (``run``), its side of the agreement (``conductor``).

Workers share nothing but the plan. A step begins when all have prepared it, a window when all are warm; both at one
CLOCK_MONOTONIC time that the parent names. Each worker leaves its own ``shard=NNN``. When one ends early the load is no
longer the planned one, so the others are asked to end too, and keep what they have. Workers die with their parent.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from loadgen.conductor import LEAD_NS, WINDOW_LEAD_NS, WorkerConductor
from loadgen.control import Control, RunError
from loadgen.datasets.remote import Fetched, is_remote
from loadgen.plan import Plan
from loadgen.progress import Progress
from loadgen.run_setup import open_client

NS = 1_000_000_000
_HOME = Path(__file__).parents[1]
_POLL_S = 0.2
_SAY_NS = NS
_GRACE_S = 30.0  # after the deadline, for writing what was measured
_PR_SET_PDEATHSIG = 1
_SUMS = ("sent", "completed", "failed", "in_flight", "events_per_s", "output_tokens")


def run_workers(plan: Plan, out: str, progress: Progress, started_ns: int) -> tuple[int, str | None]:
    """Run *plan* in ``plan.workers`` processes; returns the worst exit code and its reason, as ``run_plan``.

    Raises ``PlanError`` for what no worker could run, before any of them is started.
    """
    plan.validate()
    open_client(plan)[0].close()  # names the variable that is not set, the header that cannot be sent
    return _Parent(plan, out, progress, started_ns).run()


def run_worker(out: str, started_ns: int) -> tuple[int, str | None]:
    """One worker: the plan is the first line of standard input, where its dataset was fetched to the second."""
    from loadgen.run import run_plan

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    plan, place = Plan.from_json(_line()), json.loads(_line())
    fetched = Fetched.lent(plan.dataset, Path(place)) if place is not None and plan.dataset else None
    control = Control(plan.deadline_s, started_ns)
    control.install()
    if os.getppid() != parent:
        control.signal_name = "the end of its parent"
    progress = Progress("json")
    conductor = WorkerConductor(progress, control, last=plan.shard == 0)
    return run_plan(plan, out, progress, started_ns, control=control, conductor=conductor, fetched=fetched)


def _line() -> str:
    """The first line of standard input, and not a byte more: what follows is the conductor's."""
    data = bytearray()
    while (byte := os.read(0, 1)) not in (b"\n", b""):
        data += byte
    return data.decode()


class _Worker:
    def __init__(self, plan: Plan, out: str, fetched: Fetched | None) -> None:
        self.shard = plan.shard
        command = [sys.executable, "-P", "-m", "loadgen", "run", "--as-worker", "--out", out]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_HOME)},
        )
        self.error = b""
        self.latest: dict[str, Any] = {}
        self.text = b""
        self.rows = 0
        self.say(plan.to_json())
        self.say(json.dumps(None if fetched is None else str(fetched.path)))

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self.process.stderr is not None
        return self.process.stderr

    def say(self, line: str) -> None:
        """One line to the worker, unless it is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return

    @property
    def reason(self) -> str:
        """The last sentence it wrote to standard error."""
        lines = self.error.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it ended without a word"


class _Parent:
    def __init__(self, plan: Plan, out: str, progress: Progress, started_ns: int) -> None:
        self.plan, self.out, self.progress = plan, out, progress
        self.control = Control(plan.deadline_s, started_ns)
        self.workers: list[_Worker] = []
        self.open: set[_Worker] = set()  # those whose standard output has not ended
        self.ready: dict[str, set[_Worker]] = {}
        self.selector = selectors.DefaultSelector()
        self.stopping = False
        self.steps_begun: set[int] = set()
        self.steps_ended: dict[int, int] = {}
        self.first: _Worker | None = None  # the worker that failed first
        self.said_ns = 0
        self.fetched: Fetched | None = None

    def run(self) -> tuple[int, str | None]:
        self.control.install()
        try:
            if is_remote(self.plan.dataset):  # once for all
                assert self.plan.dataset is not None
                self.fetched = Fetched(self.plan.dataset, self.control.stop_reason)
            return self._run()
        except RunError as error:
            return self.control.exit_code, str(error)
        finally:
            if self.fetched is not None:
                self.fetched.remove()

    def _run(self) -> tuple[int, str | None]:
        left_s = (self.control.deadline_ns - time.perf_counter_ns()) / NS
        base = dataclasses.replace(
            self.plan, workers=1, shards=self.plan.workers, start_at_unix=None, deadline_s=max(0.1, left_s)
        )
        try:
            for shard in range(base.shards):
                worker = _Worker(dataclasses.replace(base, shard=shard), self.out, self.fetched)
                self.workers.append(worker)
                for pipe in (worker.stdout, worker.stderr):
                    self.selector.register(pipe, selectors.EVENT_READ, worker)
            self.open = set(self.workers)
            self._follow()
            return self._verdict()
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.wait()
                for end in (worker.process.stdin, worker.stdout, worker.stderr):
                    if end is not None:
                        end.close()
            self.selector.close()

    def _follow(self) -> None:
        latest_ns = self.control.deadline_ns + int(_GRACE_S * NS)
        while self.open and time.perf_counter_ns() < latest_ns:
            for key, _ in self.selector.select(_POLL_S):
                worker: _Worker = key.data
                data = os.read(key.fd, 65536)
                if key.fileobj is worker.stderr:
                    worker.error = (worker.error + data)[-8192:]
                elif data:
                    *lines, worker.text = (worker.text + data).split(b"\n")
                    for line in lines:
                        self._hear(worker, line)
                if not data:
                    self.selector.unregister(key.fileobj)
                    if key.fileobj is worker.stdout:
                        self._ended(worker)
            if self.control.signal_name is not None:
                self._stop()

    def _ended(self, worker: _Worker) -> None:
        self.open.discard(worker)
        code = worker.process.wait()
        if code != 0 and self.first is None:
            self.first = worker
            self._stop()
        for name in list(self.ready):
            self._answer(name)

    def _stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            for worker in self.open:
                if worker.process.poll() is None:
                    worker.process.send_signal(signal.SIGTERM)

    def _verdict(self) -> tuple[int, str | None]:
        rows = sum(worker.rows for worker in self.workers)
        late = [worker for worker in self.workers if worker.process.poll() is None]
        codes = [worker.process.poll() for worker in self.workers if worker not in late]
        interrupted = self.control.signal_name is not None
        reason: str | None = None
        code = 0
        if interrupted:
            reason, code = f"interrupted by {self.control.signal_name}", 130
        elif self.first is not None:
            exit_code = self.first.process.returncode
            how = f" (killed by signal {-exit_code})" if exit_code < 0 else ""
            reason = f"worker {self.first.shard}{how}: {self.first.reason}"
            code = 2 if exit_code == 2 else 1
        elif late or any(codes):
            reason, code = "a worker did not end in time", 1
        self.progress.event("done", rows=rows, complete=code == 0, message=f"{rows} samples written")
        return code, reason

    # ------------------------------------------------------------------ what workers say

    def _hear(self, worker: _Worker, line: bytes) -> None:
        try:
            document = json.loads(line)
            event = document.pop("event")
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if event == "ready":
            self.ready.setdefault(document["name"], set()).add(worker)
            self._answer(document["name"])
        elif event in ("progress", "step_start", "step_end"):
            self._merge(worker, event, document)
        elif event in ("warning", "cause"):
            message = f"worker {worker.shard}: {document.pop('message', '')}"
            self.progress.event(event, message=message, **document)
        elif event == "calibrated" and worker.shard == 0:
            self.progress.event(event, **document)
        elif event == "done":
            worker.rows = document.get("rows", 0)

    def _answer(self, name: str) -> None:
        """Name the time when all workers that still run have asked for it."""
        if not self.open or not self.open <= self.ready[name]:
            return
        at = time.perf_counter_ns() + (WINDOW_LEAD_NS if name.startswith("window") else 2 * LEAD_NS)
        for worker in self.ready.pop(name):
            worker.say(f"{name} {at}")

    def _merge(self, worker: _Worker, event: str, document: dict[str, Any]) -> None:
        """All workers' counts in one line: when the first begins a step, once a second, when the last ends it."""
        worker.latest = document
        index = document["step_index"]
        if event == "step_start":
            if index in self.steps_begun:
                return
            self.steps_begun.add(index)
        elif event == "step_end":
            self.steps_ended[index] = self.steps_ended.get(index, 0) + 1
            if self.steps_ended[index] < len(self.workers):
                return
        elif time.perf_counter_ns() - self.said_ns < _SAY_NS // 2:
            return
        self.said_ns = time.perf_counter_ns()
        same = [one.latest for one in self.workers if one.latest.get("step_index") == index]
        sums = {name: sum(one.get(name) or 0 for one in same) for name in _SUMS}
        if event != "step_end":
            sums["output_tokens"] = None
        self.progress.event(event, **{**document, **sums, "workers": len(self.workers)})
