"""Leaving no process behind.

Belongs here: ending everything below this process. Does not belong here: who is told to end politely first.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from accelbench_assets.launch.supervise import descendants


def end_below(*, reap: Callable[[], object] = lambda: None, limit_s: float = 2.0) -> None:
    """SIGKILL for every process below this one, until there is none."""
    limit = time.monotonic() + limit_s
    while (left := descendants(os.getpid())) and time.monotonic() < limit:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        time.sleep(0.01)
