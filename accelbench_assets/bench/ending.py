"""How an attempt ends: which status an error means, and what is kept of its files.

Belongs here: the table from errors to statuses of the ``runs`` record, keeping logs scrubbed.
Does not belong here: the order of an attempt (``run``), the record's fields (``record``).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accelbench_assets.bench.request import RunVoid
from accelbench_assets.bench.validity import Rules, first_void
from accelbench_assets.errors import (
    AccelBenchError,
    DeadlineExceeded,
    LakeError,
    LaunchError,
    describe_os_error,
)
from accelbench_assets.launch.base import EventSink
from accelbench_assets.scrub import scrub

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

STATUS_OF_CODE = {
    "does_not_fit": "does_not_fit",
    "no_capacity": "no_capacity",
    "not_sold": "not_sold",
    "deadline": "timed_out",
    "cancelled": "cancelled",
    "node_lost": "infra_lost",
    "evicted": "infra_lost",
    "lease_lost": "infra_lost",
}
"""Launch errors whose status says more than ``failed``."""
OUTCOMES = ("does_not_fit", "no_capacity", "not_sold")
"""Statuses that answer the question asked: the grid's cell is not empty, it holds a reason."""
_LOG_LIMIT = 32 * 2**20


def classify(
    error: BaseException, validity: Rules | None, work_dir: Path, secrets: Sequence[str]
) -> tuple[str, str, str]:
    """``(status, failure_code, failure_text)`` of the record for an attempt that *error* ended."""
    if isinstance(error, RunVoid):
        return "void", first_void(validity or {}) or "void", scrub(error.message, secrets)
    if isinstance(error, LaunchError):
        return STATUS_OF_CODE.get(error.code, "failed"), error.code, scrub(error.message, secrets)
    if isinstance(error, AccelBenchError):
        late = isinstance(error, DeadlineExceeded)
        code = "deadline" if late else "lake" if isinstance(error, LakeError) else "error"
        return "timed_out" if late else "failed", code, scrub(error.message, secrets)
    if isinstance(error, OSError):
        code = "disk_full" if error.errno == errno.ENOSPC else "os_error"
        return "failed", code, scrub(describe_os_error(error, "working in", str(work_dir)), secrets)
    if isinstance(error, Exception):
        text = f"An error inside AccelBench ended the run: {type(error).__name__}: {error}"
        return "failed", "internal", scrub(text, secrets)
    return "cancelled", "interrupted", "The run was cancelled before it was complete."


def keep_logs(lake: Lake, run_id: str, work_dir: Path, secrets: Sequence[str], on_event: EventSink) -> None:
    """Put every file of the run's folder into the lake, scrubbed; failing to is only a warning."""
    if not work_dir.is_dir():
        return
    for path in sorted(p for p in work_dir.rglob("*") if p.is_file() and not p.is_symlink()):
        try:
            _scrub_file(path, secrets)
            lake.put_log(run_id, "-".join(path.relative_to(work_dir).parts), path)
        except (AccelBenchError, OSError) as error:
            on_event("warning", f"Log {path.name} could not be kept in the lake: {error}", {})


def _scrub_file(path: Path, secrets: Sequence[str]) -> None:
    """Rewrite *path* as scrubbed UTF-8 text, the last 32 MiB of it."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_LIMIT))
        text = file.read().decode("utf-8", "replace")
    path.write_text(scrub(text, secrets), encoding="utf-8")
