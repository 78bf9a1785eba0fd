"""One attempt from its registration to its end, through the orchestrating child.

Belongs here: what ``run`` and ``demo`` share: registering the attempt at once, the lock that tells others it
lives, the child, the interrupt, the reaping of a child that died, and showing what came out.
Does not belong here: flags (``target``), the run itself (``bench`` in the child), the table (``ladder``).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from accelbench_assets.cli.options import Format
from accelbench_assets.cli.state import STATE, home
from accelbench_assets.errors import LakeError, describe_os_error

if TYPE_CHECKING:
    from accelbench_assets.bench.request import RunRequest
    from accelbench_assets.cli.results import RunResults
    from accelbench_assets.cli.target import Target
    from accelbench_assets.lake.lake import Lake


@contextlib.contextmanager
def attempt_lock(folder: Path, run_id: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A lock file held by this process and, inherited, by the child: (descriptor, what ``attempt.json`` says
    of it).

    The attempt counts as alive while either process lives, so nobody reaps a run whose command line was
    killed but whose child is still cleaning up. The kernel drops the lock with the last of them.
    """
    from accelbench_assets.launch.locks import describe_lock

    path = folder / "locks" / f"{run_id}.attempt.lock"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LakeError(describe_os_error(error, "making the run's lock", str(path))) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle, describe_lock(path)
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def launch(target: Target, *, command: str, publish: bool, fmt: Format) -> None:
    """Run *target* to its end and print the outcome. Exits 0, 1 (failed or void) or 130 (interrupted)."""
    from accelbench_assets.bench.record import new_attempt, new_run_id
    from accelbench_assets.cli.child import run_child
    from accelbench_assets.cli.progress import ProgressView, load_label
    from accelbench_assets.cli.results import reap_dead

    folder, lake = home(), STATE.lake()
    lake.check_writable()
    run_id = new_run_id()
    request = {**target.request, "run_id": run_id, "reproduce_command": command, "publish": publish}
    labels = [load_label(kind, value) for kind, value, _ in target.workload.ladder]
    if request["load"]["search_slo"] is not None:
        labels = []  # a search decides its steps as it goes
    for note in target.notes:
        STATE.note(note)
    STATE.note(f"run {run_id}: {target.cell.key_text}")
    attempt = new_attempt(as_run_request(target, request))
    with attempt_lock(folder, run_id) as (descriptor, alive), request_file(folder, request) as path:
        try:
            lake.begin_attempt({**attempt, **alive})
            reap_dead(lake)
            end = run_child(
                ["-m", "accelbench_assets.defs.tasks", "run", "--request", str(path)],
                view=ProgressView(labels),
                log=folder / "logs" / f"run-{run_id}.log",
                keep_open=(descriptor,),
            )
        except BaseException:
            # The interrupt may have come inside begin_attempt: what is announced must end, what is not never began.
            if any(one["run_id"] == run_id for one in lake.open_attempts()):
                lake.finish({**attempt, **CANCELLED})
            raise
        if end.interrupted and lake.run_record(run_id) is None:  # too early for the child to write it
            lake.finish({**attempt, **CANCELLED})
    record = lake.run_record(run_id)
    if record is None:  # the child died before it could write one; its lock is gone with it
        reap_dead(lake)
        record = lake.run_record(run_id)
    if end.interrupted:
        STATE.warn(interrupted_line(run_id, record, publish=publish))
        raise typer.Exit(130)
    ended = record or {"run_id": run_id, "status": "infra_lost"}
    finish(lake, ended, fmt, error=end.failure("The run"), publish=publish)


def interrupted_line(run_id: str, record: Mapping[str, Any] | None, *, publish: bool) -> str:
    """What an interrupt left: a cancelled run, or one that was committed and only misses its publication."""
    if record is None or record["status"] != "succeeded":
        return f"interrupted; run {run_id} is {record['status'] if record else 'not recorded'}."
    kept = f"interrupted; run {run_id} is kept"
    return (
        f"{kept}; catalog and page are not up to date: the next published run includes it."
        if publish
        else f"{kept}."
    )


CANCELLED = {
    "status": "cancelled",
    "failure_code": "interrupted",
    "failure_text": "The run was cancelled before it was complete.",
}


def as_run_request(target: Target, request: Mapping[str, Any]) -> RunRequest:
    """The request as the domain knows it, for the record that registers the attempt."""
    from accelbench_assets.bench.request import LoadOptions, RunRequest
    from partitions.cell import OWN_FAMILIES

    same = (
        *("model_id", "evidence_level", "run_id", "seed", "deadline_s", "reproduce_command", "endpoint_url"),
        *("api_key_env", "headers", "served_model_name", "port", "suite_id", "usd_per_hour", "trial_index"),
    )
    return RunRequest(
        cell=target.cell,
        workload=target.workload,
        launcher_name=target.cell.family if target.cell.family in OWN_FAMILIES else "eks",
        requested_by=request.get("requested_by"),
        home=STATE.settings.home,
        load=LoadOptions(**request["load"]),
        **{name: request[name] for name in same},
    )


def finish(
    lake: Lake, record: Mapping[str, Any], fmt: Format, *, error: Exception | None, publish: bool
) -> None:
    """Show a run that has ended; raises *error* (if any) after the record has been shown as JSON."""
    from accelbench_assets.cli.results import RunResults, read_results

    readable = record.get("status") == "succeeded"
    results = read_results(lake, record) if readable else RunResults(record)
    if fmt is Format.table:
        if readable:
            show_outcome(results, published=publish and error is None)
    else:
        write_results(results, fmt)
    if record.get("status") == "failed":
        from accelbench_assets.cli.runs import logs_hint

        STATE.note(f"{logs_hint(record['run_id'])}.")
    if error is not None:
        raise error
    if not readable:
        from accelbench_assets.errors import AccelBenchError

        text = record.get("failure_text") or "no reason was recorded"
        raise AccelBenchError(
            f"Run {record['run_id']} ended as {record['status']}: {text}",
            hint=f"`accelbench show {record['run_id']}` shows everything kept.",
        )


def where(results: RunResults) -> dict[str, str]:
    """Where the lake, the database and the report page are."""
    shown = STATE.settings.shown()
    return {
        "lake": shown["lake"],
        "database": shown["database_url"],
        "page": str(STATE.settings.site_dir / "index.html"),
    }


def write_results(results: RunResults, fmt: Format) -> None:
    """JSON: ``{"run", "steps", "slo", "cost", "paths"}``. CSV: one line a step, percentiles as columns."""
    from accelbench_assets.cli.output import write_csv, write_json
    from accelbench_assets.cli.results import flat_steps

    if fmt is Format.json:
        write_json({**results.document(), "paths": where(results)})
    else:
        rows, fields = flat_steps(results)
        write_csv(rows, fields)


def show_outcome(results: RunResults, *, published: bool) -> None:
    """The ladder, the run's validity, where things are and what to do next."""
    from accelbench_assets.cli.ladder import print_ladder, verdict_line
    from accelbench_assets.cli.output import console
    from accelbench_assets.cli.runs import capacity_line
    from accelbench_assets.launch.host import host_fingerprint, host_label

    record = results.record
    out = console()
    print_ladder(results, host=host_label() if record.get("host_fingerprint") == host_fingerprint() else None)
    out.print(verdict_line(record))
    if line := capacity_line(record):
        out.print(line, style="bold")
    out.print()
    places = where(results)
    if not published:
        places = {"lake": places["lake"], "catalog": "not published: the next published run includes it"}
    for name, place in {"run": str(record["run_id"]), **places}.items():
        out.print(f"{name + ':':10}{place}", soft_wrap=True)
    out.print()
    # The catalog is listed by measured runs unless asked otherwise.
    query = "accelbench query" if record.get("origin") == "measured" else "accelbench query --origin any"
    show = f"accelbench show {str(record['run_id'])[:13]}"
    out.print("next:", f"{show}  |  {query}  |  accelbench ui", soft_wrap=True)


@contextlib.contextmanager
def request_file(folder: Path, request: Mapping[str, Any]) -> Iterator[Path]:
    """The request as a file of mode 0600 that is gone afterwards."""
    try:
        handle, name = tempfile.mkstemp(prefix="request-", suffix=".json", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(request, stream)
    except OSError as error:
        raise LakeError(describe_os_error(error, "writing the request into", str(folder))) from None
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
