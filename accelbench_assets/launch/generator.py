"""Drives the load generator as a child that cannot outlive the run, and reads back what it left.

Belongs here: its command, its progress lines as events, its exit codes as errors.
Does not belong here: what it does (``loadgen``), checking and committing samples (``lake``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelbench_assets.errors import AccelBenchError, DeadlineExceeded, LakeError, LaunchError
from accelbench_assets.lake.storage import open_storage
from accelbench_assets.launch.base import Deadline, Endpoint, EventSink, LoadManifest, ServerSpec
from accelbench_assets.launch.facts import without_secrets
from accelbench_assets.launch.logs import scrub_file, tail
from accelbench_assets.launch.process import SupervisedProcess
from accelbench_assets.scrub import looks_secret, scrub, scrub_headers
from loadgen.plan import Plan

GRACE_S = 8.0  # it writes what it has measured before it ends
ALIVE_EVERY_S = 0.5


def run_generator(
    plan: Plan, endpoint: Endpoint, out: str, spec: ServerSpec, deadline: Deadline, on_event: EventSink
) -> LoadManifest:
    """One generator process from start to end; see ``Launcher.load`` for errors.

    Leaves ``plan.json`` and ``loadgen.log`` in ``spec.work_dir``.
    """
    deadline.check("starting the load generator")
    plan_path, log = spec.work_dir / "plan.json", spec.work_dir / "loadgen.log"
    plan_path.touch(mode=0o600)
    plan_path.write_text(plan.to_json(), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "loadgen", "run"]
    command += ["--plan", str(plan_path), "--out", out, "--progress", "json"]
    secrets = _secrets(plan)
    keep = tuple(
        filter(None, (plan.api_key_env, plan.proxy_env, "AWS_" if out.startswith("s3://") else None))
    )
    try:
        process = SupervisedProcess(
            command,
            log=log,
            env=without_secrets(os.environ, keep),
            deadline_s=deadline.remaining(),
            grace_s=GRACE_S,
            pass_stdout=True,
        )
        with process:
            _follow(process, endpoint, on_event, secrets)
            reason, code = process.how_it_ended()
        if reason == "deadline":
            raise DeadlineExceeded(
                f"The run's deadline of {deadline.total_s:.0f} s passed while load was driven."
            )
        if code != 0:
            endpoint.check_alive()
            raise failure(code, log, deadline, secrets)
        return LoadManifest(tuple(read_shard(out, shard) for shard in range(plan.shard_count)), code)
    finally:
        scrub_file(log, secrets=secrets)
        kept = dataclasses.replace(plan, headers=scrub_headers(plan.headers))
        plan_path.write_text(kept.to_json(), encoding="utf-8")


def _secrets(plan: Plan) -> tuple[str, ...]:
    """What the plan makes secret, though nothing else might take it for one."""
    named = [value for name, value in plan.headers.items() if looks_secret(name)]
    held = (os.environ.get(name or "") for name in (plan.api_key_env, plan.proxy_env))
    return tuple(filter(None, (*held, *named)))


def _follow(
    process: SupervisedProcess, endpoint: Endpoint, on_event: EventSink, secrets: tuple[str, ...]
) -> None:
    next_check = time.monotonic() + ALIVE_EVERY_S
    while not process.over():
        if line := process.line(ALIVE_EVERY_S):
            relay(scrub(line, secrets), on_event)
        if time.monotonic() >= next_check:
            endpoint.check_alive()
            next_check = time.monotonic() + ALIVE_EVERY_S


def progress(line: str) -> dict[str, Any] | None:
    """The progress document in one line of the generator's stdout; ``None`` if it is another line."""
    if not line.startswith("{"):
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) and "event" in document else None


def relay(line: str, on_event: EventSink) -> None:
    """One line of the generator's stdout as an event; what is no progress document is a log line."""
    document = progress(line)
    if document is None:
        on_event("log", line[:500], {})
        return
    kind = "warning" if document["event"] == "warning" else "progress"
    on_event(kind, str(document.get("message") or _describe(document)), document)


def _describe(document: Mapping[str, Any]) -> str:
    """One line for a progress document without a message of its own."""
    counts = [f"{document[k]} {k}" for k in ("completed", "failed") if isinstance(document.get(k), int)]
    step, phase = document.get("step_index"), document.get("phase")
    where = (
        " ".join(str(part) for part in ("step", step, phase) if part is not None) if step is not None else ""
    )
    return ": ".join(part for part in (where or str(document["event"]), ", ".join(counts)) if part)


def failure(code: int, log: Path, deadline: Deadline, secrets: tuple[str, ...]) -> AccelBenchError:
    """The error for a generator that ended with *code*, told by the last line of its *log*."""
    last = tail(log, 1, secrets=secrets).removeprefix("error: ")
    if "disk is full" in tail(log).lower():
        return LaunchError(last, code="disk_full")
    if "deadline" in last.lower():  # its own, a little before ours so that it can write what it has
        return DeadlineExceeded(f"The run's deadline of {deadline.total_s:.0f} s passed: {last}")
    how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return LaunchError(f"The load generator {how}: {last or 'it said nothing'}", code="loadgen_failed")


def read_shard(out: str, shard: int) -> Mapping[str, Any]:
    """``shard.json`` of one shard below *out*; ``LaunchError`` (``loadgen_failed``) if there is none."""
    try:
        document = json.loads(open_storage(out).read(f"shard={shard:03d}/shard.json"))
    except (LakeError, ValueError) as error:
        text = f"The load generator left no readable shard.json: {error}"
        raise LaunchError(text, code="loadgen_failed") from None
    if not isinstance(document, dict):
        raise LaunchError("The load generator's shard.json is not an object.", code="loadgen_failed")
    return document
