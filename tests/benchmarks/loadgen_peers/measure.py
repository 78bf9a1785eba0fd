"""What a client costs, seen from outside: processor time and memory of its whole process tree, from /proc.

Belongs here: the sampler, what it says about a span of time, facts of this machine.
Does not belong here: what the client measured (``clients``), starting it (``processes``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TICK_S = 0.2
_PSS_EVERY_S = 1.0
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Stat:
    """Of one process: its session, clock ticks of processor time (with those of children it waited for), resident
    pages."""

    session: int
    ticks: int
    pages: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A process tree at one moment: monotonic ns, processor seconds so far, bytes resident (summed), bytes PSS
    (``None``: not taken this time), processes."""

    at_ns: int
    cpu_s: float
    rss: int
    pss: int | None
    processes: int


@dataclass
class Usage:
    """Samples in order of time, of a tree whose root started at ``began_ns`` and was gone at ``ended_ns``."""

    began_ns: int = 0
    ended_ns: int = 0
    samples: list[Sample] = field(default_factory=list)

    def cpu_at(self, at_ns: int) -> float:
        """Processor seconds used by *at_ns*, between samples in proportion to time."""
        before = Sample(self.began_ns, 0.0, 0, None, 0)
        for after in self.samples:
            if after.at_ns >= at_ns:
                share = (at_ns - before.at_ns) / max(1, after.at_ns - before.at_ns)
                return before.cpu_s + max(0.0, share) * (after.cpu_s - before.cpu_s)
            before = after
        return before.cpu_s

    def cpu_between(self, start_ns: int, end_ns: int) -> float:
        """Processor seconds used in a span."""
        return self.cpu_at(end_ns) - self.cpu_at(start_ns)

    def core_share_max(self, start_ns: int, end_ns: int) -> float:
        """The largest share of one core over any whole second of the span (over all of it, if shorter)."""
        second = 1_000_000_000
        if end_ns - start_ns <= second:
            return self.cpu_between(start_ns, end_ns) / max(1e-9, (end_ns - start_ns) / 1e9)
        steps = range(start_ns, end_ns - second + 1, second // 5)
        return max(self.cpu_between(at, at + second) for at in steps)

    def rss_at(self, at_ns: int) -> int | None:
        """Bytes resident at the first sample taken at or after *at_ns*; ``None``: the tree had gone."""
        return next((one.rss for one in self.samples if one.at_ns >= at_ns), None)

    def pss_at(self, at_ns: int) -> int | None:
        """Proportional bytes at the first sample with them taken at or after *at_ns*."""
        return next((one.pss for one in self.samples if one.at_ns >= at_ns and one.pss is not None), None)

    @property
    def cpu_s(self) -> float:
        """Processor seconds of the whole run, as far as samples saw it."""
        return self.samples[-1].cpu_s if self.samples else 0.0

    @property
    def rss_peak(self) -> int:
        """Largest sum of resident bytes."""
        return max((one.rss for one in self.samples), default=0)

    @property
    def pss_peak(self) -> int | None:
        """Largest sum of proportional bytes; ``None``: never taken."""
        return max((one.pss for one in self.samples if one.pss is not None), default=None)

    @property
    def processes(self) -> int:
        """Most processes at a time."""
        return max((one.processes for one in self.samples), default=0)


class TreeSampler:
    """Sample the tree below *pid* every *every_s* seconds in a thread until :meth:`stop`.

    *pss* reads shared pages' shares too; that takes the sampled process's memory lock, so it is for trees of
    many processes only, once a second.
    """

    def __init__(self, pid: int, began_ns: int, *, every_s: float = TICK_S, pss: bool = False) -> None:
        self.usage = Usage(began_ns)
        self._known, self._every_s, self._pss = {pid}, every_s, pss
        self._pss_at = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> Usage:
        """End sampling; the usage so far."""
        self._over.set()
        self._thread.join(5)
        self.usage.ended_ns = time.perf_counter_ns()
        return self.usage

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            want_pss = self._pss and time.monotonic() >= self._pss_at
            if want_pss:
                self._pss_at = time.monotonic() + _PSS_EVERY_S
            members = descendants(self._known)
            if not members:
                continue
            self._known |= set(members)
            sample = sample_of(members, pss=want_pss)
            # A child that ended unwaited takes its time out of the sum; time used never runs back.
            if self.usage.samples and sample.cpu_s < self.usage.samples[-1].cpu_s:
                sample = dataclasses.replace(sample, cpu_s=self.usage.samples[-1].cpu_s)
            self.usage.samples.append(sample)


def sample_of(members: Mapping[int, Stat], *, pss: bool = False) -> Sample:
    """One sample of these processes."""
    shared = sum(map(_pss_of, members)) if pss else 0
    return Sample(
        time.perf_counter_ns(),
        sum(one.ticks for one in members.values()) / _CLOCK_TICKS,
        sum(one.pages for one in members.values()) * _PAGE,
        shared or None,
        len(members),
    )


def descendants(roots: Collection[int]) -> dict[int, Stat]:
    """*roots* that run and all below them. Only their own entries in /proc are read: reading all of /proc takes
    milliseconds, which the client under test would feel. A process that lost its parent is found for as long as
    it is among the roots."""
    found: dict[int, Stat] = {}
    left = list(roots)
    while left:
        pid = left.pop()
        if pid in found or (one := _stat(pid)) is None:
            continue
        found[pid] = one
        with contextlib.suppress(OSError):
            for task in os.scandir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError), open(f"{task.path}/children", "rb") as file:
                    left += map(int, file.read().split())
    return found


def session(leader: int) -> set[int]:
    """Processes of *leader*'s session, wherever in the tree they are now; reads all of /proc."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid for pid in pids if (one := _stat(pid)) is not None and one.session == leader}


def _stat(pid: int) -> Stat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # from field 3, the state, on
    return Stat(int(fields[3]), sum(map(int, fields[11:15])), max(0, int(fields[21])))


def _pss_of(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def machine() -> dict[str, str | int | float]:
    """What this run was measured on: processor, cores, memory (GiB), kernel, Python, load average."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE / 2**30
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_1min": round(os.getloadavg()[0], 2),
    }
