"""What can end a run from outside its schedule: a signal, the deadline, a server that is gone.

Belongs here: noting that, for the loop to look at every tick. Does not belong here: ending anything
(``steps``, ``run``).
"""

from __future__ import annotations

import signal
import time
from types import FrameType

NS = 1_000_000_000


class RunError(Exception):
    """The run cannot go on; the text is one sentence for people."""


class Control:
    """Call :meth:`install` once in the main thread; then ask :meth:`stop_reason`."""

    def __init__(self, deadline_s: float, started_ns: int) -> None:
        self.signal_name: str | None = None
        self.deadline_ns = started_ns + int(deadline_s * NS)
        self._deadline_s = deadline_s

    def install(self) -> None:
        """Turn SIGTERM and SIGINT into a note."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    def stop_reason(self) -> str | None:
        """Why to stop now, or ``None``."""
        if self.signal_name is not None:
            return f"interrupted by {self.signal_name}"
        if time.perf_counter_ns() > self.deadline_ns:
            return f"the deadline of {self._deadline_s:g} s passed"
        return None

    @property
    def exit_code(self) -> int:
        """130 after a signal, 1 otherwise."""
        return 130 if self.signal_name is not None else 1
