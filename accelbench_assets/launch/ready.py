"""When a started engine counts as ready, and how its death reads.

Belongs here: polling health, the real completion every replica must give, early death, time limits.
Does not belong here: starting and stopping (``local``), the requests themselves (``probe``).
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from accelbench_assets.engines.base import Engine
from accelbench_assets.errors import AccelBenchError, DeadlineExceeded, LaunchError
from accelbench_assets.launch.base import Deadline, utc_now
from accelbench_assets.launch.logs import tail
from accelbench_assets.launch.probe import Server, Unreachable, try_completion
from accelbench_assets.launch.process import SupervisedProcess

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.25
HEALTH_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 60.0
SHOWN_LINES = 3
_BUSY = ("address already in use", "is already in use")


@dataclass(slots=True)
class Starting:
    """One replica on its way to being ready. Times ``_s`` are seconds from the common start."""

    server: Server
    process: SupervisedProcess
    healthy_at: datetime | None = None
    healthy_s: float = 0.0
    ready_at: datetime | None = None
    ready_s: float = 0.0
    supports_ignore_eos: bool = False
    last: str = "no answer yet"


def wait_ready(
    engine: Engine, model: str, replicas: Sequence[Starting], deadline: Deadline, started: float
) -> None:
    """Block until every replica is healthy and then has answered one real completion; fills in their times.

    Raises ``LaunchError``: ``port_busy`` or ``crashed`` when a process ends first, ``not_ready`` when the
    engine's own time limit passes or it refuses the completion; ``DeadlineExceeded``.
    """
    limit, pause = started + engine.start_timeout_s, FIRST_PAUSE_S
    while True:
        waiting = [r for r in replicas if r.ready_at is None]
        if not waiting:
            return
        for replica in waiting:
            if not replica.process.running():
                raise death(engine.name, replica.process, "before it was ready")
        deadline.check(f"waiting for {engine.name} to become ready")
        if time.monotonic() >= limit:
            raise LaunchError(
                f"{engine.name} was not ready after {engine.start_timeout_s:.0f} s ({waiting[0].last}).",
                code="not_ready",
                hint=_last_lines(waiting[0].process),
            )
        for replica in waiting:
            if replica.healthy_at is None and replica.server.get(
                engine.health_path, timeout_s=HEALTH_TIMEOUT_S
            ):
                replica.healthy_at, replica.healthy_s = utc_now(), time.monotonic() - started
        if all(r.healthy_at for r in replicas):  # a completion would delay noticing the health of another
            for replica in waiting:
                _complete(engine, model, replica, deadline, started)
            continue
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_S, pause * 1.3)


def _complete(engine: Engine, model: str, replica: Starting, deadline: Deadline, started: float) -> None:
    timeout_s = min(PROBE_TIMEOUT_S, deadline.remaining() + 0.1)
    try:
        probe = try_completion(replica.server, model, timeout_s=timeout_s)
    except Unreachable as error:
        replica.last = str(error)
        time.sleep(FIRST_PAUSE_S)
        return
    if probe.ok:
        replica.ready_at, replica.ready_s = utc_now(), time.monotonic() - started
        replica.supports_ignore_eos = probe.supports_ignore_eos
        return
    replica.last = f"status {probe.reply.status}: {replica.server.scrub(probe.reply.text)[:200]}"
    if 400 <= probe.reply.status < 500:
        raise LaunchError(f"{engine.name} refuses a completion with {replica.last}.", code="not_ready")
    time.sleep(LONGEST_PAUSE_S)


def death(name: str, process: SupervisedProcess, when: str) -> AccelBenchError:
    """The error for an engine process that has ended; deadline, port and signal are told apart."""
    reason, code = process.how_it_ended()
    lines = tail(process.log)
    if code == errno.EADDRINUSE or (code > 0 and any(text in lines.lower() for text in _BUSY)):
        return LaunchError(
            f"{name} could not take its port: it is already in use.",
            code="port_busy",
            hint="Give another with --port, or none and a free one is found.",
        )
    if reason == "deadline":
        return DeadlineExceeded(f"{name} was ended at the run's deadline, {when}.")
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        if code == -signal.SIGKILL:
            how += ", perhaps by the system for lack of memory"
    return LaunchError(f"{name} {how} {when}.", code="crashed", hint=_last_lines(process))


def _last_lines(process: SupervisedProcess) -> str | None:
    lines = tail(process.log, SHOWN_LINES)
    return f"Its last lines: {' | '.join(lines.splitlines())}" if lines else None
