"""Starting clients and the ground-truth server, and making sure that none stays.

Belongs here: one command as a process group with a limit, its log, its usage; the server and its log of what it
did; busy processes beside a client.
Does not belong here: what the logs mean (``arithmetic``), which commands (``clients``, ``peers``).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.benchmarks.loadgen_peers.measure import TICK_S, TreeSampler, Usage, descendants, session

ROOT = Path(__file__).parents[3]
_STOP_S = 10.0
_SERVER_TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Finished:
    """``code`` is ``None`` when the command was ended at its limit. ``words`` is the last line it said."""

    code: int | None
    usage: Usage
    words: str


def run(
    command: Sequence[str],
    folder: Path,
    *,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    every_s: float = TICK_S,
    pss: bool = False,
) -> Finished:
    """Run *command* in *folder* with its output in ``log.txt``; it and all its children are gone afterwards."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        began_ns = time.perf_counter_ns()
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        sampler = TreeSampler(process.pid, began_ns, every_s=every_s, pss=pss)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            usage = sampler.stop()
            end_tree(process)
    return Finished(code, usage, last_words(log))


def end_tree(process: subprocess.Popen[Any]) -> None:
    """Kill the process's group, its descendants and its session: whatever of it is left."""
    for pid in {*descendants([process.pid]), *session(process.pid), process.pid}:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait(_STOP_S)


def last_words(log: Path) -> str:
    """The last line that says something, at most 200 characters."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """*count* processes that do nothing but run, at normal priority, while the block lasts (ten minutes at most)."""
    code = "import time\nend = time.monotonic() + 600\nwhile time.monotonic() < end: pass"
    running = [subprocess.Popen([sys.executable, "-I", "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait(_STOP_S)


class TruthServer:
    """``python -m loadgen truth`` with *options*, its log in *folder*. Use as a context manager; the log is
    whole once :meth:`stop` returned."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.log_path = folder / "truth.jsonl"
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "truth",
            "--exit-with-parent",
            "--log",
            str(self.log_path),
        ]
        with (folder / "truth.txt").open("wb") as errors:
            self._process = subprocess.Popen(
                [*command, *options],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._sampler = TreeSampler(self._process.pid, time.perf_counter_ns(), every_s=_SERVER_TICK_S)
        self.usage = self._sampler.usage
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _STOP_S)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.stop()
            words = last_words(folder / "truth.txt")
            raise RuntimeError(f"the ground-truth server did not start: {words or 'it said nothing'}")
        self.url: str = json.loads(line)["url"]

    def died(self) -> str | None:
        """Its last words, if it ended before it was told to."""
        if self._process.poll() is None:
            return None
        return last_words(self.log_path.with_name("truth.txt")) or f"exit code {self._process.returncode}"

    def stop(self) -> None:
        """Let it write its log and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        self._sampler.stop()
        end_tree(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> TruthServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@cache
def truth_knows(words: str) -> bool:
    """Whether the ground-truth server's ``--help`` speaks of *words*."""
    command = [sys.executable, "-m", "loadgen", "truth", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    return words in done.stdout
