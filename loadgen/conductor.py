"""When steps and windows begin: at once in a single process, together in several.

Belongs here: the agreement between processes that divide one schedule. Does not belong here: who starts those
processes (``workers``), what happens at the agreed time (``steps``).

A worker asks its parent on standard output (a ``ready`` event that names the moment) and gets a line back on standard
input, ``<name> <CLOCK_MONOTONIC ns>``, once all workers have asked. Shards on several hosts cannot ask: their steps
begin at times that follow from ``start_at_unix`` and the plan alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence

from loadgen.client import Client
from loadgen.control import Control, RunError
from loadgen.plan import Plan, Step
from loadgen.progress import Progress

NS = 1_000_000_000
LEAD_NS = 30_000_000  # between asking and the start of a step: connections open in it
WINDOW_LEAD_NS = 100_000_000
"""Between the verdict on the warm-up and the window: what the verdict cost is over."""
_WAIT_S = 0.05


class Conductor:
    """Of a process that agrees with nobody."""

    fixed_warmup = False
    late_s = 0.0  # how much later than agreed the last step began

    def attach(self, client: Client) -> None:
        """Let *client*'s loop hear the answers."""

    def step_start(self, index: int, control: Control) -> int:
        """When step number *index* of the run begins, monotonic ns; waits until that is known."""
        return time.perf_counter_ns() + LEAD_NS

    def ask_window(self, index: int) -> None:
        """This process's warm-up of step *index* is over."""

    def window_start(self, index: int) -> int | None:
        """When the window of step *index* begins; ``None``: not known yet."""
        return time.perf_counter_ns() + WINDOW_LEAD_NS

    def all_done(self, control: Control) -> bool:
        """Wait until nobody measures any more; whether this process is the one that takes the last measurements."""
        return True


class HostConductor(Conductor):
    """Of a shard that starts at a fixed time, with others elsewhere. Its warm-ups cannot wait for each other, so they
    last ``warmup_s``."""

    def __init__(self, plan: Plan, wall_offset_ns: int) -> None:
        assert plan.start_at_unix is not None
        self.fixed_warmup = plan.shards > 1
        self._last = plan.shard == 0
        at = int(plan.start_at_unix * NS) - wall_offset_ns
        self._starts = _planned_starts(plan.steps, at) if plan.shards > 1 else [at]

    def step_start(self, index: int, control: Control) -> int:
        """At the planned time, or as soon as this process is ready if that has passed."""
        now = time.perf_counter_ns()
        planned = self._starts[index] if index < len(self._starts) else now
        while planned - time.perf_counter_ns() > 2 * LEAD_NS:
            if (reason := control.stop_reason()) is not None:
                raise RunError(reason)
            time.sleep(min(_WAIT_S, max(0.0, (planned - time.perf_counter_ns() - 2 * LEAD_NS) / NS)))
        start = max(planned, time.perf_counter_ns() + LEAD_NS)
        self.late_s = (start - planned) / NS if index < len(self._starts) else 0.0
        return start

    def all_done(self, control: Control) -> bool:
        """Nobody is waited for; shard 0 measures."""
        return self._last


class WorkerConductor(Conductor):
    """Of a worker: the parent decides."""

    def __init__(self, progress: Progress, control: Control, *, last: bool, descriptor: int = 0) -> None:
        self._progress, self._control, self._fd, self._last = progress, control, descriptor, last
        self._text = b""
        self._answers: dict[str, int] = {}
        os.set_blocking(descriptor, False)

    def attach(self, client: Client) -> None:
        """Hear the parent in *client*'s loop."""
        client.watch(self._fd, self.hear)

    def hear(self) -> None:
        """Take what the parent said; its end is taken for a signal."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, 4096)
            if not data:
                self._control.signal_name = self._control.signal_name or "the end of its parent"
            *lines, self._text = (self._text + data).split(b"\n")
            for line in lines:
                name, _, at = line.decode("ascii", "replace").rpartition(" ")
                self._answers[name] = int(at)

    def step_start(self, index: int, control: Control) -> int:
        """When all workers are ready."""
        return self._wait(f"step {index}", control)

    def ask_window(self, index: int) -> None:
        """Tell the parent."""
        self._progress.event("ready", name=f"window {index}")

    def window_start(self, index: int) -> int | None:
        """What the parent said."""
        return self._answers.get(f"window {index}")

    def all_done(self, control: Control) -> bool:
        """Wait for the other workers; the last measurements are shard 0's."""
        self._wait("end", control)
        return self._last

    def _wait(self, name: str, control: Control) -> int:
        self._progress.event("ready", name=name)
        while name not in self._answers:
            if (reason := control.stop_reason()) is not None:
                raise RunError(reason)
            self.hear()
            if name not in self._answers:
                time.sleep(_WAIT_S / 10)
        return self._answers[name]


def _planned_starts(steps: Sequence[Step], first_ns: int) -> list[int]:
    """When each step begins if all take as long as planned, with time to write their samples between them."""
    starts, at = list[int](), first_ns
    for step in steps:
        starts.append(at)
        at += int((step.planned_s + max(5.0, 0.1 * step.window_s)) * NS)
    return starts
