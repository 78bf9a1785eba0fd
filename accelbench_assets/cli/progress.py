"""What a person sees while a run is going on: phases, the current step, elapsed of planned, requests,
tokens/s.

Belongs here: turning events of the orchestrating child into a live line (terminal) or plain lines (pipe, log
file).
Does not belong here: the child process itself (``child``), results (``ladder``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from accelbench_assets.cli.state import STATE

PLAIN_EVERY_S = 10.0
"""Least time between two progress lines where there is no terminal."""


def load_label(kind: str, value: float) -> str:
    """``C=4`` for a closed loop, ``2.5 req/s`` for an open one."""
    return f"C={int(value)}" if kind == "closed" else f"{value:g} req/s"


class ProgressView:
    """Renders events to stderr. A context manager; ``notice`` replaces the current line's text
    (interrupts).
    """

    def __init__(self, ladder: Sequence[str], *, plain: bool | None = None) -> None:
        self._ladder = tuple(ladder)
        self.plain = (not sys.stderr.isatty()) if plain is None else plain
        self._live: Any = None
        self._task: Any = None
        self._last_plain = 0.0
        self._tokens = _Rate()
        self._step: object = None
        self._started = time.monotonic()
        self._committing = self._committed = False
        self.closing = False

    def __enter__(self) -> ProgressView:
        if not self.plain and not STATE.quiet:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            from accelbench_assets.cli.output import console

            self._live = Progress(
                SpinnerColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[detail]}", markup=False),
                console=console(stderr=True),
                transient=True,
            )
            self._task = self._live.add_task("starting", total=None, detail="")
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def notice(self, text: str) -> None:
        """Show *text* at once, whatever the child is doing."""
        if self._live is not None:
            self._live.update(self._task, description=text, total=None, detail="")
        else:
            self._line(text)

    def close_with(self, text: str) -> None:
        """Show *text* for the rest of the time: nothing but warnings after it."""
        self.notice(text)
        self.closing = True

    def interrupted_text(self) -> str:
        """What an interrupt does now, by the last phase that was seen."""
        if self._committed:
            return "interrupted: the run is kept; catalog and page are not up to date (again to kill)"
        if self._committing:
            return "interrupted: the run is being committed; what is complete is kept (again to kill)"
        return "interrupted: stopping the engine and writing the record (again to kill)"

    def event(self, kind: str, message: str, data: Mapping[str, Any]) -> None:
        """One event of the child; unknown kinds are ignored (a newer child may say more)."""
        if kind == "phase":
            # The phase after "commit" is the first thing done with a run that stands.
            self._committed = self._committed or self._committing
            self._committing = data.get("phase") == "commit"
        if kind == "warning":
            self._above(f"warning: {message}")
        elif kind == "phase" and not self.closing:
            self.notice(message)
        elif kind == "progress" and not self.closing:
            self._progress(message, data)

    def _progress(self, message: str, data: Mapping[str, Any]) -> None:
        text, detail = self._describe(message, data)
        elapsed, planned = data.get("elapsed_s"), data.get("planned_s")
        if self._live is not None:
            known = elapsed is not None and bool(planned)
            self._live.update(
                self._task,
                description=text,
                detail=detail,
                total=float(planned or 0) if known else None,
                # Never quite full: a finished task would stop its clock, and the next step comes.
                completed=min(float(elapsed or 0), 0.999 * float(planned or 0)) if known else 0,
            )
        elif data.get("event") == "step_end" or time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self._line(f"{text}  {detail}".rstrip())

    def _describe(self, message: str, data: Mapping[str, Any]) -> tuple[str, str]:
        index = data.get("step_index")
        if not isinstance(index, int) or not 0 <= index < len(self._ladder):
            return message or str(data.get("event", "")), ""
        if index != self._step:
            self._step = index
            self._tokens = _Rate()
        text = (
            f"step {index + 1}/{len(self._ladder)} {self._ladder[index]} {data.get('phase') or ''}".rstrip()
        )
        parts = []
        if data.get("elapsed_s") is not None and data.get("planned_s"):
            planned = float(data["planned_s"])
            parts.append(f"{min(float(data['elapsed_s']), planned):.0f}/{planned:.0f} s")
        if data.get("completed") is not None:
            failed = f", {data['failed']} failed" if data.get("failed") else ""
            parts.append(f"{data['completed']} requests{failed}")
        rate = self._tokens.update(data.get("output_tokens"))
        if rate is not None:
            parts.append(f"{rate:.0f} tok/s")
        return text, " · ".join(parts)

    def _above(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        if not STATE.quiet:
            elapsed = time.monotonic() - self._started
            print(f"[{elapsed:5.1f} s] {text}", file=sys.stderr, flush=True)


class _Rate:
    """Tokens a second over the last few seconds, from a counter that may start anew."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []

    def update(self, count: Any) -> float | None:
        if not isinstance(count, (int, float)):
            return None
        now = time.monotonic()
        if self._points and count < self._points[-1][1]:
            self._points.clear()
        self._points.append((now, float(count)))
        while len(self._points) > 2 and now - self._points[0][0] > 5.0:
            self._points.pop(0)
        (then, before), elapsed = self._points[0], now - self._points[0][0]
        return (count - before) / (now - then) if elapsed >= 0.5 else None
