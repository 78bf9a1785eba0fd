"""The orchestrating child process: started, watched, interrupted, and never outliving this process.

Belongs here: starting ``python -m accelbench_assets.defs.tasks``, reading its JSON lines, forwarding Ctrl-C
once, and how long the child is waited for after that. The child's stdin is a pipe held open as its lifeline: when this
process dies in any way, the child sees the end of the file and cancels itself.
Does not belong here: what the child does (``defs``), how progress looks (``progress``).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from accelbench_assets.cli.progress import ProgressView
from accelbench_assets.errors import AccelBenchError, LakeError, describe_os_error
from accelbench_assets.scrub import scrub

CLEAN_UP_S = 45.0
"""After one interrupt the child has this long to stop its engine and write its record before it is killed. One that
rents machines says itself how long giving them back may take (``leaving_s``)."""
NUDGE_S = 10.0
"""A child that is still there this long after an interrupt, and did not say that it is leaving, loses its lifeline as
well; one that rents machines after half the time it may take."""
REAP = "accelbench reap --cluster"
_AGAIN = " (again to kill)"
AFTER_EXIT_S = 1.0
"""Lines may still arrive this long after the child's exit."""


@dataclass(slots=True)
class ChildEnd:
    """How the child ended: its last ``result`` or ``error`` line, or neither when it died."""

    returncode: int
    kind: str | None = None  # result | error | None
    data: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    log: Path | None = None

    def last_words(self) -> str:
        """The last line the child wrote to stderr, scrubbed; empty if it wrote none."""
        if self.log is None:
            return ""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return scrub(lines[-1].strip()) if lines else ""
        return ""

    def failure(self, doing: str) -> ChildFailed | None:
        """What went wrong; ``None`` when the child ended with a result and code 0."""
        if self.kind == "result" and self.returncode == 0:
            return None
        if self.kind == "error":
            return ChildFailed(
                str(self.data.get("message") or f"{doing} failed."),
                hint=self.data.get("hint"),
                exit_code=int(self.data.get("exit_code") or 1),
            )
        how = f"signal {-self.returncode}" if self.returncode < 0 else f"exit code {self.returncode}"
        words = self.last_words()
        said = f" Its last words: {words}" if words else ""
        where = f"Its log: {self.log}" if self.log else None
        return ChildFailed(f"{doing}: the process died ({how}) without a result.{said}", hint=where)


class ChildFailed(AccelBenchError):
    """The child said what went wrong, or died; carries the child's exit code."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class _Interrupts:
    """Counts SIGINT, SIGTERM and SIGHUP: the first is forwarded as SIGINT, the second kills the child's session.

    ``leaving_s`` is above 0 for a child that rents machines: how long it may take to give them back. ``heard``: it said
    that it is at it.
    """

    def __init__(self) -> None:
        self.child: subprocess.Popen[str] | None = None
        self.count, self.since = 0, 0.0
        self.leaving_s, self.heard, self.killed = 0.0, False, False

    def see(self, data: Mapping[str, Any]) -> None:
        """Take note of what an event of the child says of leaving."""
        with contextlib.suppress(TypeError, ValueError):
            self.leaving_s = max(self.leaving_s, float(data.get("leaving_s") or 0.0))
        self.heard = self.heard or (self.count > 0 and bool(data.get("leaving")))

    def deaf(self) -> bool:
        """Whether the child ought to have said by now that it heard: one that rents machines may have to look first."""
        return not self.heard and self.waited_s() > max(NUDGE_S, self.leaving_s / 2)

    def grace_s(self) -> float:
        """How long after an interrupt the child is waited for."""
        return max(CLEAN_UP_S, self.leaving_s)

    def text(self, usual: str) -> str:
        """What is said at an interrupt: *usual*, and for rented machines what is waited for and what ends that."""
        if not self.leaving_s:
            return usual
        return (
            f"{usual.removesuffix(_AGAIN)}; waiting at most {self.grace_s():.0f} s until the rented machines are given "
            f"back (again leaves that to `{REAP}`)"
        )

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self.since = time.monotonic()
            self.forward()
        else:
            self.kill()

    def forward(self) -> None:
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self.child is not None:
            self.killed = self.killed or self.count > 0
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child.pid, signal.SIGKILL)

    def waited_s(self) -> float:
        """Seconds since the first interrupt; 0 when there was none."""
        return time.monotonic() - self.since if self.count else 0.0


@contextlib.contextmanager
def _caught(handler: _Interrupts) -> Iterator[None]:
    """Let *handler* have the signals. An ignored SIGHUP (nohup) stays ignored.

    A handled signal is reset to its default by exec, an ignored one is not: this must be entered before the child
    starts, or the child of a shell's background job would never see SIGINT.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    before = {s: signal.signal(s, handler) for s in signals}
    try:
        yield
    finally:
        for s, old in before.items():
            signal.signal(s, old)


def run_child(
    argv: Sequence[str],
    *,
    view: ProgressView,
    log: Path,
    env: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
) -> ChildEnd:
    """Run ``sys.executable *argv`` to its end, feeding *view*; its stderr goes to the file *log* (mode 0600).

    Descriptors in *keep_open* (a lock) are inherited.

    An interrupt does not raise here: the child cleans up and ``interrupted`` is set on what is returned.
    """
    end, interrupts = ChildEnd(returncode=-1, log=log), _Interrupts()
    with _caught(interrupts), view:
        child = interrupts.child = _start(argv, log, env, keep_open)
        if interrupts.count:  # it came while the child was being made
            interrupts.forward()
        try:
            for line in _lines(child, interrupts, view):
                interrupts.see(_take(line, end, view))
        finally:
            if child.poll() is None:
                interrupts.kill()
            _close_lifeline(child)
            end.returncode = child.wait(timeout=30)
    end.interrupted = interrupts.count > 0
    if interrupts.killed and interrupts.leaving_s:
        view.event(
            "warning", f"rented machines may still be there: `{REAP}`, or its next pass, takes them away", {}
        )
    return end


def _start(
    argv: Sequence[str], log: Path, env: Mapping[str, str] | None, keep_open: Sequence[int]
) -> subprocess.Popen[str]:
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise LakeError(describe_os_error(error, "writing the log", str(log))) from None
    try:
        return subprocess.Popen(
            [sys.executable, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=handle,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"},
            pass_fds=keep_open,
            start_new_session=True,  # Ctrl-C of the terminal reaches only us; we forward it once
        )
    finally:
        os.close(handle)


def _close_lifeline(child: subprocess.Popen[str]) -> None:
    if child.stdin is not None and not child.stdin.closed:
        with contextlib.suppress(OSError):
            child.stdin.close()


def _lines(child: subprocess.Popen[str], interrupts: _Interrupts, view: ProgressView) -> Iterator[str]:
    """Lines of the child until it has exited, even if a grandchild keeps the pipe open."""
    lines: queue.Queue[str | None] = queue.Queue()
    assert child.stdout is not None
    threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
    exited_at: float | None = None
    while True:
        if interrupts.count and not view.closing:
            view.close_with(interrupts.text(view.interrupted_text()))
        if interrupts.deaf():
            _close_lifeline(child)  # it did not hear: the end of its lifeline is the second way to tell it
        if interrupts.waited_s() > interrupts.grace_s():
            interrupts.kill()
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            if child.poll() is not None:
                exited_at = exited_at or time.monotonic()
                if time.monotonic() - exited_at > AFTER_EXIT_S:
                    return
            continue
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=interrupts.grace_s())
            return
        yield line


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            lines.put(line)
    lines.put(None)


def _take(line: str, end: ChildEnd, view: ProgressView) -> dict[str, Any]:
    """Carry one line where it belongs; the event's data."""
    try:
        event = json.loads(line)
        kind, message, data = (
            str(event["kind"]),
            str(event.get("message") or ""),
            dict(event.get("data") or {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # not one of ours: a library printed to stdout
    if kind in ("result", "error"):
        end.kind = kind
        end.data = {"message": message, **data} if message else data
    else:
        view.event(kind, message, data)
    return data
