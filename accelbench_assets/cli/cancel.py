"""``accelbench cancel RUN``: end a run that is under way, wherever its orchestrator is.

Belongs here: finding the open attempt, telling its orchestrator, waiting for the record.
Does not belong here: what an orchestrator does when it is told (``bench.run``), removing a dead run (``reap``).

An orchestrator of this machine hears a signal, as by Ctrl-C. One elsewhere reads the wish from the Lease it renews;
who has no Lease either cannot be reached from here.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
    near,
)
from accelbench_assets.cli.output import Column, emit
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import AccelBenchError, UsageError

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

FIELDS = ("run_id", "status", "failure_code", "failure_text", "cell_key", "torn_down_at")
LOOK_S = 0.2


def cancel(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a run under way, or enough of its beginning or end.")
    ],
    wait: Annotated[
        float,
        typer.Option("--wait", min=0, max=3600, help="Seconds to wait for the end; 0: only ask for it."),
    ] = 60.0,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """End a run that is under way: what it started is taken away, and its record says cancelled.

    Exit 0 when the run was cancelled (with --wait 0: when it was told), 1 when it ended otherwise or did not end in
    time.
    """
    format_ = chosen(fmt, as_json)
    lake = STATE.lake()
    attempt = find_attempt(lake, run)
    run_id = str(attempt["run_id"])
    if attempt.get("status") is not None:
        _show(attempt, format_)
        if attempt["status"] != "cancelled":
            raise AccelBenchError(f"Run {run_id} had ended before, as {attempt['status']}.")
        STATE.note(f"Run {run_id} had been cancelled before.")
        return
    STATE.note(f"run {run_id}: {tell(attempt)}")
    if wait == 0:
        return
    record = ended(lake, run_id, wait)
    if record is None:
        raise AccelBenchError(
            f"Run {run_id} was told and has not ended within {wait:g} s.",
            hint="It may still be taking things away: `accelbench runs` shows when it has ended.",
        )
    _show(record, format_)
    if record["status"] != "cancelled":
        raise AccelBenchError(f"Run {run_id} was told too late: it ended as {record['status']}.")


def find_attempt(lake: Lake, text: str) -> dict[str, Any]:
    """The open attempt (without ``status``) or, where none is meant, the record that *text* names. Raises
    ``UsageError``.
    """
    attempts = {str(one["run_id"]): {**one, "status": None} for one in lake.open_attempts()}
    wanted = text.lower()
    matching = [
        one for one in attempts if one.startswith(wanted) or (len(wanted) >= 4 and one.endswith(wanted))
    ]
    if len(matching) == 1:
        return attempts[matching[0]]
    if matching:
        raise UsageError(
            f"{text!r} matches {len(matching)} runs under way: {', '.join(sorted(matching))}.",
            hint="Give more of the id.",
        )
    record = lake.run_record(wanted)
    if record is None:
        under_way = f"Under way: {near(text, sorted(attempts))}" if attempts else "None is under way."
        raise UsageError(
            f"No run {text!r} in the lake {lake.url}. {under_way}", hint="`accelbench runs` lists them."
        )
    return record


def tell(attempt: Mapping[str, Any]) -> str:
    """Ask the orchestrator of *attempt* to end it; says how. Raises ``AccelBenchError`` if it cannot be reached."""
    from accelbench_assets.launch.locks import is_alive

    if orchestrated_here(attempt):
        if not is_alive(attempt):
            more = " --cluster" if attempt.get("cluster") else ""
            raise AccelBenchError(
                f"Run {attempt['run_id']} has no orchestrator any more: its process died.",
                hint=f"`accelbench reap{more}` takes away what it left and writes its record.",
            )
        pid = int(attempt.get("pid") or 0)
        if holds(pid, str(attempt["lock"])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            return f"asked its process {pid} to stop."
        return f"its process {pid} is gone, and what it started is cleaning up by itself."
    if attempt.get("cluster"):
        return _tell_by_lease(attempt)
    raise AccelBenchError(
        f"Run {attempt['run_id']} is orchestrated on another machine, which cannot be told from here.",
        hint="Interrupt it there.",
    )


def orchestrated_here(attempt: Mapping[str, Any]) -> bool:
    """Whether the attempt's orchestrator is, or was, a process of this machine."""
    from accelbench_assets.launch.host import host_fingerprint

    same_name = attempt.get("host_name") in (None, platform.node())  # pods of one image share the fingerprint
    return attempt.get("host_fingerprint") == host_fingerprint() and same_name


def holds(pid: int, lock: str) -> bool:
    """Whether process *pid* has the file *lock* open: a process id alone may have been given to another process."""
    if pid <= 0:
        return False
    try:
        wanted = Path(lock).stat()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found = link.stat()
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
    except OSError:  # it ended, or is somebody else's
        return False
    return False


def _tell_by_lease(attempt: Mapping[str, Any]) -> str:
    from accelbench_assets.cli.target_eks import user_name
    from accelbench_assets.launch.kube.client import Cluster
    from accelbench_assets.launch.kube.lease import request_cancel

    kube = STATE.settings.kube
    cluster = Cluster.connect(
        kube.model_copy(update={"namespace": attempt.get("namespace") or kube.namespace})
    )
    if cluster.namespace_uid() != attempt["cluster"]:
        raise AccelBenchError(
            f"Run {attempt['run_id']} is on another cluster than the one configured here.",
            hint="Choose its context with the setting kube.context or KUBECONFIG.",
        )
    who = f"{user_name() or 'somebody'} on {platform.node()}"
    if not request_cancel(cluster, str(attempt["run_id"]), who):
        raise AccelBenchError(
            f"Run {attempt['run_id']} has no Lease: it has not started yet, is just ending, or its orchestrator died.",
            hint="Try again; `accelbench reap --cluster` takes away what a dead run left.",
        )
    return "wrote the wish to its Lease; its orchestrator reads it within seconds."


def ended(lake: Lake, run_id: str, wait_s: float) -> dict[str, Any] | None:
    """The record of the run with exactly this id, waited for at most *wait_s* seconds. Only its own key is read: a lake
    of many runs is not listed at every look.
    """
    from accelbench_assets.lake import io, layout
    from accelbench_assets.lake.storage import MissingKeyError

    key, end = layout.run_key(run_id), time.monotonic() + wait_s
    while True:
        try:
            record: dict[str, Any] = io.read_json(lake.storage, key)
            return record
        except MissingKeyError:
            if time.monotonic() >= end:
                return None
        time.sleep(LOOK_S)


def _show(record: Mapping[str, Any], fmt: Format) -> None:
    columns = [Column("run_id", "run"), Column("status", "status"), Column("failure_text", "why", wrap=True)]
    emit([record], columns, fmt, fields=FIELDS)
