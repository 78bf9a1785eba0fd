"""What this client can do at most: the same code against a server that costs nothing, after the run (rule M7).

Belongs here: starting that server, driving it for a second or two, the figures. Does not belong here: the verdict.

Two parts follow each other. With as many users as the run had (at most 256) and no pause between events, the client is
the bottleneck: that gives its events and requests a second. With few users the same flood shows the client's own
latency, from the kernel's receive stamp to the client's, without the queue its own saturation makes. An event is a
socket read, as in the run's figures. Both processes share this machine, so the true ceiling of a client with a core of
its own is higher.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from array import array
from pathlib import Path

from loadgen.client import Client
from loadgen.control import Control
from loadgen.exchange import Exchange, Request
from loadgen.monitor import quantile
from loadgen.plan import Replica
from loadgen.prompts import BodyTemplate, body_fields

NS = 1_000_000_000
MAX_USERS = 256
FEW_USERS = 4
TOKENS = 64
LONGEST_S = 1.0
_STARTS_WITHIN_S = 5.0
_NEEDED_S = 10.0  # of the deadline
_SHORTEST_RUN_S = 1.0
_HOME = Path(__file__).parents[1]


class NullServerError(Exception):
    """The calibration could not be made; the text says why."""


def measure(users: int, measured_s: float, control: Control) -> dict[str, float | None]:
    """Figures of this client: ``events_per_s``, ``requests_per_s``, ``own_latency_p99_ms`` (``None`` without kernel
    stamps).

    *users*: the run's largest concurrency; *measured_s*: the sum of its windows, a tenth of which each part takes, at
    most a second. Raises ``NullServerError``.
    """
    if measured_s < _SHORTEST_RUN_S:
        raise NullServerError("the run's windows are shorter than a second")
    left_s = (control.deadline_ns - time.perf_counter_ns()) / NS
    if left_s < _NEEDED_S:
        raise NullServerError(f"only {max(0.0, left_s):.0f} s of the deadline were left")
    command = [sys.executable, "-P", "-m", "loadgen", "truth", "--null", "--exit-with-parent"]
    environment = {**os.environ, "PYTHONPATH": str(_HOME)}
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        url = _url(server)
        duration_s = min(LONGEST_S, measured_s / 10)
        reads, requests, seconds, _ = _drive(url, max(1, min(users, MAX_USERS)), duration_s, control)
        *_, lags = _drive(url, max(1, min(users, FEW_USERS)), duration_s / 2, control)
    except OSError as error:
        raise NullServerError(f"the null server failed: {error}") from None
    finally:
        server.kill()
        server.wait()
        for pipe in (server.stdin, server.stdout):
            if pipe is not None:
                pipe.close()
    p99 = quantile(lags, 0.99)
    return {
        "events_per_s": reads / seconds,
        "requests_per_s": requests / seconds,
        "own_latency_p99_ms": None if p99 is None else p99 / 1e6,
    }


def _url(server: subprocess.Popen[bytes]) -> str:
    assert server.stdout is not None
    if not select.select([server.stdout], [], [], _STARTS_WITHIN_S)[0]:
        raise NullServerError(f"the null server did not start within {_STARTS_WITHIN_S:g} s")
    try:
        return str(json.loads(server.stdout.readline())["url"])
    except (ValueError, KeyError, TypeError):
        raise NullServerError("the null server did not start") from None


def _drive(url: str, users: int, duration_s: float, control: Control) -> tuple[int, int, float, array[int]]:
    """Reads, finished requests, seconds, and the lag of every stamped read in ns."""
    replica = Replica("null", url)
    fields = body_fields("chat", "null", max_tokens=TOKENS, ignore_eos=True, stream=True)
    request = Request(0, "null", BodyTemplate.of(fields).fill(b"null"), b"null", None, None)
    client = Client((replica,), api="chat", headers={}, request_timeout_s=10.0, idle_timeout_s=10.0)
    lags = array("q")
    finished = failed = 0
    try:
        client.warm(users)
        for _ in range(users):
            client.submit(Exchange(request, replica, True))
        begin, reads = time.perf_counter_ns(), client.counters.reads
        end = begin + int(duration_s * NS)
        while (now := time.perf_counter_ns()) < end:
            client.poll(0.05)
            done, client.done = client.done, []
            for exchange in done:
                finished += 1
                failed += exchange.failure is not None
                lags.extend(lag for lag in exchange.lags_ns if lag >= 0)
                client.submit(Exchange(request, replica, True))
            if control.stop_reason() is not None:
                raise NullServerError("the run was stopped")
            if failed > users:
                raise NullServerError("the null server did not answer")
        seconds = (now - begin) / NS
        return client.counters.reads - reads, finished, seconds, lags
    finally:
        client.close()
