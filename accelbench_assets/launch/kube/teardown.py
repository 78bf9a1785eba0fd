"""Taking a run's objects away on the way out, whatever interrupts it.

Belongs here: which parts go, waiting for their pods, work that an interrupt does not cut short.
Does not belong here: removing whole runs, also those of others (``sweep``, ``reap``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.naming import base_name, load_name, plan_name, selector

LIMIT_S = 20.0
"""Longest time leaving takes; what is left then falls to the owner, the deadlines and the reaper."""
RECORDING_S = 120.0
"""What keeping logs, writing the record and settling the budget may take after that, each with its own retries."""
LEAVING_S = 2 * LIMIT_S + RECORDING_S
"""Longest time from an interrupt to the end of a run: its servers go, its record is written, what owns them goes."""
_LOOK_S = 0.2


def undisturbed(
    work: Callable[[], None], limit_s: float = LIMIT_S, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Do *work* to its end, at most *limit_s* seconds, though interrupts come meanwhile; the first is raised after.

    It runs in a thread, which no signal reaches. What it raises itself is raised here. *meanwhile* is called once it
    has begun, so that telling of it can neither hold it up nor, by failing, end it.
    """
    failure: list[BaseException] = []
    done = threading.Event()  # an interrupted join() would take the thread for ended

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="kube-teardown", daemon=True)
    interrupt: BaseException | None = None
    limit = time.monotonic() + limit_s
    told = False
    while True:
        try:
            if thread.ident is None:
                thread.start()
            if not told:
                told = True
                with contextlib.suppress(Exception):
                    meanwhile()
            done.wait(max(0.0, limit - time.monotonic()))
            break
        except BaseException as error:
            interrupt = interrupt or error
    if interrupt is not None:
        raise interrupt
    if failure:
        raise failure[0]


def remove_parts(cluster: Cluster, run_id: str) -> list[str]:
    """Delete all of a run but its anchor and Lease, without waiting; sentences about what could not be deleted.

    The generator goes first: it has samples to save while the servers go.
    """
    told = []
    for kind, name in _parts(run_id):
        try:
            cluster.delete(kind, name, retry_s=LIMIT_S / 2)
        except AccelBenchError as error:
            told.append(f"{kind} {name} could not be deleted: {error.message}")
    return told


def still_there(cluster: Cluster, run_id: str, wait_s: float) -> list[str]:
    """What is left of what :func:`remove_parts` deletes and of its pods after at most *wait_s*; what cannot be asked
    counts as left.
    """
    left = await_gone(cluster, run_id, None, wait_s)
    for kind, name in _parts(run_id):
        try:
            found = cluster.get(kind, name, retry_s=_LOOK_S)
        except AccelBenchError as error:
            left.append(f"{kind} {name}, perhaps ({error.message})")
        else:
            left += [f"{kind} {name}"] if found is not None else []
    return left


def _parts(run_id: str) -> tuple[tuple[str, str], ...]:
    """Kinds and names, in the order in which they go."""
    return (
        ("Job", load_name(run_id)),
        ("Deployment", base_name(run_id)),
        ("Service", base_name(run_id)),
        ("ConfigMap", plan_name(run_id)),
    )


def await_gone(cluster: Cluster, run_id: str, component: str | None, wait_s: float) -> list[str]:
    """Wait until no pod of the run (or of one *component*) is left, at most *wait_s*; names of those that are."""
    limit = time.monotonic() + wait_s
    while True:
        try:
            left = [p["metadata"]["name"] for p in _pods(cluster, run_id, component)]
        except AccelBenchError as error:
            return [f"pods that could not be listed ({error.message})"]
        if not left or time.monotonic() >= limit:
            return left
        time.sleep(_LOOK_S)


def _pods(cluster: Cluster, run_id: str, component: str | None) -> list[dict[str, Any]]:
    return cluster.list("Pod", labels=selector(run_id, component), retry_s=_LOOK_S)
