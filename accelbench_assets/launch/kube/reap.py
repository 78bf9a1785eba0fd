"""Which runs on a cluster are dead, and putting an end to them: objects first, then record and budget.

Belongs here: the decision, one pass over a cluster, and the removal of one run. Needs no Dagster and no database.
Does not belong here: how objects are removed (``sweep``), the order of writes in the lake (``lake.commit``), when a
pass is made (``cli``, a CronJob).

A pass can be stopped anywhere and made by several at once: everything in it can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.client import Cluster, Object
from accelbench_assets.launch.kube.errors import KubeError, shown
from accelbench_assets.launch.kube.lease import holder_identity
from accelbench_assets.launch.kube.sweep import Sweep, find, sweep

REAPER_LEASE: Final = "accelbench-reaper"
"""The Lease that every pass renews. It bears no label by which objects of runs are found."""
UNSEEN_S: Final = 900.0
"""So long after its last pass nobody counts on the reaper: three times what a CronJob leaves between two."""
STALE_S: Final = 180.0
"""What counts where an object does not say after how many seconds its Lease is stale."""
WAIT_S: Final = 60.0
Why = Literal["stale_lease", "past_deadline", "no_lease", "orphan", "no_objects"]
_RUNNING: Final = ("Deployment", "Job", "Pod")
_END: Final = {
    "past_deadline": ("past_deadline", "The run was still there after its deadline and was removed."),
}
_DIED: Final = ("orchestrator_died", "The orchestrator of this run died before it could record an end.")


@dataclass(frozen=True, slots=True)
class RunState:
    """What the objects of one run say. Times are the cluster's; ``lease_renewed_at`` is ``None`` without a Lease."""

    run_id: str | None
    run12: str
    objects: tuple[str, ...]
    has_anchor: bool
    lease_renewed_at: datetime | None
    stale_s: float
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """A run that has to go, and why."""

    state: RunState
    why: Why


class Records(Protocol):
    """What is asked of the lake: :class:`accelbench_assets.lake.lake.Lake`."""

    def open_attempts(self) -> list[dict[str, Any]]:
        """Attempts without a record."""
        ...

    def end_lost(self, run_id: str, *, code: str, text: str) -> dict[str, Any] | None:
        """Record the end of one of them."""
        ...


class Ledger(Protocol):
    """What is asked of the budget."""

    def settle_run(self, run_id: str, usd: Any = None, *, ran_until_now: bool = True) -> bool:
        """Give back a run's reservation."""
        ...


def decide(states: Iterable[RunState], now: datetime) -> list[Verdict]:
    """Which runs have to go at *now* (the cluster's time). Pure.

    A Lease as old as ``stale_s`` has lost its keeper; a run without one may only be starting, and gets as long from its
    first object on; a run that is kept alive goes when its deadline has passed and it still has what costs money:
    without that it may be writing its record.
    """
    found = []
    for state in states:
        why = _why(state, now)
        if why is not None:
            found.append(Verdict(state, why))
    return found


def _why(state: RunState, now: datetime) -> Why | None:
    if state.lease_renewed_at is None:
        if (now - state.created_at).total_seconds() >= state.stale_s:
            return "no_lease" if state.has_anchor else "orphan"
    elif (now - state.lease_renewed_at).total_seconds() >= state.stale_s:
        return "stale_lease"
    expired = state.expires_at is not None and now >= state.expires_at
    runs = any(name.partition("/")[0] in _RUNNING for name in state.objects)
    return "past_deadline" if expired and (runs or state.lease_renewed_at is None) else None


def run_states(found: Mapping[str, Sequence[Object]]) -> list[RunState]:
    """The state of each run, from its objects by ``run12``."""
    return [_state(run12, objects) for run12, objects in sorted(found.items())]


def _state(run12: str, objects: Sequence[Object]) -> RunState:
    said = [one["metadata"].get("annotations") or {} for one in objects]
    leases = [one for one in objects if one["kind"] == "Lease"]
    renewed = [
        naming.parse_time((one.get("spec") or {}).get("renewTime"))
        or naming.parse_time(one["metadata"].get("creationTimestamp"))
        for one in leases
    ]
    expiries = [moment for notes in said if (moment := naming.parse_time(notes.get(naming.EXPIRES_AT)))]
    births = [m for one in objects if (m := naming.parse_time(one["metadata"].get("creationTimestamp")))]
    return RunState(
        run_id=next((notes[naming.RUN_ID] for notes in said if notes.get(naming.RUN_ID)), None),
        run12=run12,
        objects=tuple(f"{one['kind']}/{one['metadata']['name']}" for one in objects),
        has_anchor=any(
            (one["metadata"].get("labels") or {}).get(naming.COMPONENT_LABEL) == "anchor" for one in objects
        ),
        lease_renewed_at=max((m for m in renewed if m is not None), default=None),
        stale_s=max(
            (_seconds(notes[naming.STALE_S]) for notes in said if naming.STALE_S in notes), default=STALE_S
        ),
        expires_at=max(expiries, default=None),
        created_at=min(births, default=datetime.fromtimestamp(0, UTC)),
    )


def _seconds(text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        return STALE_S
    return value if 0 < value <= 86_400 else STALE_S


def remove_run(cluster: Cluster, run_id: str, *, wait_s: float = WAIT_S) -> list[str]:
    """Remove every object of a run, living or dead, and wait at most *wait_s* seconds; the names of what is left.

    Nothing to remove is fine. Raises ``KubeError`` when the cluster cannot be asked or the API refuses.
    """
    cluster.delete("ConfigMap", naming.base_name(run_id))  # first of all, and though listing be denied
    first = find(cluster, run_id)
    done = sweep(cluster, first.by_run, wait_s=wait_s, look=lambda: find(cluster, run_id))
    mine = done.get(naming.run12(run_id), Sweep(naming.run12(run_id)))
    if first.unseen:
        raise KubeError(next(iter(first.unseen.values())), code="api_denied")
    if mine.left and mine.error is not None:
        raise KubeError(f"Run {run_id} is not wholly removed: {mine.error}", code="api_unavailable")
    return sorted(mine.left)


def reap_cluster(
    cluster: Cluster,
    lake: Records | None,
    budget: Ledger | None = None,
    now: datetime | None = None,
    *,
    wait_s: float = WAIT_S,
    stale_s: float = STALE_S,
) -> list[dict[str, Any]]:
    """One pass: remove the objects of dead runs, wait at most *wait_s* seconds, then record their end and settle.

    *stale_s* counts for attempts that left no object. Money first: objects go though lake and budget are down, and the
    next pass writes the record; it is written when nothing of the run is left. Each part is tried for itself. That a
    pass was made is left in the cluster: see ``heartbeat``.

    Returns one entry a run: ``run_id`` (``None`` if no object says it), ``run12``, ``why``, ``objects_removed``,
    ``objects_left``, ``recorded``, ``error``. Raises ``KubeError`` only if the cluster cannot be asked.
    """
    found = find(cluster)
    judged_at = now or cluster.server_time()
    states = run_states(found.by_run)
    verdicts = {verdict.state.run12: verdict for verdict in decide(states, judged_at)}

    def still_dead(run12: str) -> bool:
        return _still_dead(cluster, verdicts[run12].state, now)

    doomed = {run12: found.by_run[run12] for run12 in verdicts}
    swept = sweep(cluster, doomed, wait_s=wait_s, look=lambda: find(cluster), may_go=still_dead)
    entries = [
        _entry(verdicts[run12].state.run_id, run12, verdicts[run12].why, swept[run12]) for run12 in swept
    ]
    beat = _beat(cluster)
    attempts, trouble = _attempts(cluster, lake)
    by_run12 = {naming.run12(attempt["run_id"]): attempt["run_id"] for attempt in attempts}
    for entry in entries:
        entry["run_id"] = entry["run_id"] or by_run12.get(entry["run12"])
    seen = {state.run12 for state in states}
    for attempt in attempts:
        run12 = naming.run12(attempt["run_id"])
        if run12 not in seen and _began(attempt, judged_at) >= stale_s and not _has_lease(cluster, attempt):
            entries.append(_entry(attempt["run_id"], run12, "no_objects", Sweep(run12)))
    for entry in entries:
        # What we may not list may still be there: then nothing is known to be over.
        if entry["objects_left"] == 0 and entry["run_id"] is not None and not found.unseen:
            entry["error"] = entry["error"] or trouble
            served = _has_server(found.by_run.get(entry["run12"], ()))
            _close(entry, lake if trouble is None else None, budget, ran_until_now=served)
    said = [f"{kind} objects could not be listed: {text}" for kind, text in found.unseen.items()]
    return entries + [_unseen(text) for text in (*said, *filter(None, [beat]))]


def _has_server(objects: Iterable[Object]) -> bool:
    """Whether what serves is among a run's objects: then its node was paid for until now."""
    return any(
        one["kind"] in ("Deployment", "Pod")
        and (one["metadata"].get("labels") or {}).get(naming.COMPONENT_LABEL) == "server"
        for one in objects
    )


def _beat(cluster: Cluster) -> str | None:
    """Leave the sign of life; a sentence about why it could not be left."""
    try:
        heartbeat(cluster)
    except KubeError as error:
        return f"The reaper's Lease {REAPER_LEASE} could not be renewed: {error.message}"
    return None


def heartbeat(cluster: Cluster) -> None:
    """Note in the cluster that the reaper is at work, in the cluster's time. Raises ``KubeError``."""
    spec = {
        "holderIdentity": holder_identity(),
        "leaseDurationSeconds": int(UNSEEN_S),
        "renewTime": naming.rfc3339(cluster.server_time()),
    }
    if cluster.patch("Lease", REAPER_LEASE, {"spec": spec}) is not None:
        return
    manifest = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": REAPER_LEASE, "labels": {naming.NAME_LABEL: REAPER_LEASE}},
        "spec": spec,
    }
    try:
        cluster.create(manifest)
    except KubeError as error:
        if error.code != "conflict":  # another pass was quicker, or our own answer was lost
            raise


def reaper_seen(cluster: Cluster) -> datetime | None:
    """When the last pass over the cluster was made, in its time; ``None`` if never. Raises ``KubeError``."""
    lease = cluster.get("Lease", REAPER_LEASE)
    return naming.parse_time(((lease or {}).get("spec") or {}).get("renewTime"))


def _still_dead(cluster: Cluster, state: RunState, now: datetime | None) -> bool:
    """Look at the Lease once more: its keeper may have come back while other runs were removed."""
    lease = cluster.get("Lease", f"{naming.PREFIX}-{state.run12}")
    if lease is None:
        return True
    fresh = _state(state.run12, [lease])
    return bool(
        decide([replace(state, lease_renewed_at=fresh.lease_renewed_at)], now or cluster.server_time())
    )


def _entry(run_id: str | None, run12: str, why: Why, done: Sweep) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "run12": run12,
        "why": why,
        "objects_removed": len(done.seen) - len(done.left),
        "objects_left": len(done.left),
        "recorded": False,
        "error": done.error if done.left else None,
    }


def _unseen(text: str) -> dict[str, Any]:
    return {
        "run_id": None,
        "run12": None,
        "why": "unseen",
        "objects_removed": 0,
        "objects_left": 0,
        "recorded": False,
        "error": text,
    }


def _attempts(cluster: Cluster, lake: Records | None) -> tuple[list[dict[str, Any]], str | None]:
    """Open attempts of this cluster, and why they could not be read."""
    if lake is None:
        return [], None
    try:
        here = cluster.namespace_uid()
        return [one for one in lake.open_attempts() if one.get("cluster") == here], None
    except Exception as error:  # whatever keeps the lake from answering: the rest is next time's
        return [], _text(error)


def _began(attempt: Mapping[str, Any], now: datetime) -> float:
    """Seconds since an attempt was registered, as far as its record tells."""
    # The first is by the cluster's clock, the other by some machine's.
    moment = naming.parse_time(attempt.get("registered_at")) or naming.parse_time(attempt.get("requested_at"))
    return float("inf") if moment is None else (now - moment).total_seconds()


def _has_lease(cluster: Cluster, attempt: Mapping[str, Any]) -> bool:
    """Whether a Lease appeared since we listed them; in doubt there is one."""
    try:
        return cluster.get("Lease", naming.base_name(str(attempt["run_id"]))) is not None
    except KubeError:
        return True


def _close(
    entry: dict[str, Any], lake: Records | None, budget: Ledger | None, *, ran_until_now: bool
) -> None:
    """Record the end of a run of which nothing is left, and settle its budget."""
    code, text = _END.get(entry["why"], _DIED)
    if lake is not None:
        try:
            entry["recorded"] = lake.end_lost(entry["run_id"], code=code, text=text) is not None
        except Exception as error:  # see reap_cluster: the next pass finds the attempt again
            entry["error"] = _text(error)
    if budget is not None:
        try:
            budget.settle_run(entry["run_id"], None, ran_until_now=ran_until_now)
        except Exception as error:  # the reservation expires with the Lease that nobody renews
            entry["error"] = entry["error"] or _text(error)


def _text(error: Exception) -> str:
    return (
        error.message
        if isinstance(error, AccelBenchError)
        else f"{type(error).__name__}: {shown(str(error))}"
    )
