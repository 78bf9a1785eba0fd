"""When the steps of a server's start were over: node, image, container; weights where the engine tells.

Belongs here: reading those times from pods, events, nodes and the engine's log; the name of the phase a pod is in.
Does not belong here: waiting (``serving``), what goes wrong (``diagnose``).

The cluster's stamps have whole seconds except the scheduler's. They are the cluster's clock; durations are taken
between stamps of that clock only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accelbench_assets.launch.facts import iso
from accelbench_assets.launch.kube.look import (
    Object,
    condition,
    container_status,
    event_time,
    is_ready,
    moment,
    name_of,
    node_of,
)

_PULL_TOOK = re.compile(r"Successfully pulled image .* in ((?:[0-9.]+(?:h|ms|us|µs|ns|m|s))+)")
_PART = re.compile(r"([0-9.]+)(h|ms|us|µs|ns|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

WAITING_FOR_NODE = "waiting for a node"
PULLING = "pulling image"
LOADING = "loading weights"
READY = "ready"
ORDER = (WAITING_FOR_NODE, PULLING, LOADING, READY)


@dataclass(frozen=True, slots=True)
class Phases:
    """One replica's start. Moments are of the cluster's clock; ``None``: not known. Durations in seconds."""

    provisioned_at: datetime | None
    provision_s: float | None
    new_node: bool
    image_pulled_at: datetime | None
    image_pull_s: float | None
    started_at: datetime | None


def phase_of(pod: Object | None, container: str) -> str:
    """Which of ``ORDER`` the pod is in."""
    if pod is None or not node_of(pod):
        return WAITING_FOR_NODE
    if is_ready(pod):
        return READY
    status = container_status(pod, container)
    started = (status.get("state") or {}).get("running") or status.get("lastState") or status.get("imageID")
    return LOADING if started else PULLING


def phases_of(
    pod: Object, events: Iterable[Object], node: Object | None, container: str, submitted_at: datetime
) -> Phases:
    """From a pod that is ready, the events about it and its node; *submitted_at* is the cluster's time."""
    events = [event for event in events if name_of(event.get("involvedObject")) == name_of(pod)]
    scheduled = _scheduled_at(pod, events)
    pulled_at, pull_s = _pull(events, container)
    status = container_status(pod, container)
    started = moment(((status.get("state") or {}).get("running") or {}).get("startedAt"))
    born = moment(((node or {}).get("metadata") or {}).get("creationTimestamp"))
    return Phases(
        provisioned_at=scheduled,
        provision_s=_between(submitted_at, scheduled),
        new_node=born is not None and born >= submitted_at,
        image_pulled_at=pulled_at,
        image_pull_s=pull_s,
        started_at=started,
    )


def phase_facts(replicas: Iterable[Phases], logged: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """Fields of the ``runs`` record, of the slowest replica each; *logged* are the durations each engine logged.

    Weights are the engine's to tell: readiness comes later, after compiling and warming up.
    """
    replicas, logged = list(replicas), list(logged)
    facts: dict[str, Any] = {"weights_loaded_at": None}  # logs have durations, and clocks without a zone
    for name in ("provisioned_at", "image_pulled_at"):
        moments = [at for phases in replicas if (at := getattr(phases, name)) is not None]
        facts[name] = iso(max(moments)) if moments else None
    for name in ("provision_s", "image_pull_s"):
        seen = [s for phases in replicas if (s := getattr(phases, name)) is not None]
        facts[name] = round(max(seen), 6) if seen else None
    for name in ("weights_s", "compile_s"):
        said = [durations[name] for durations in logged if name in durations]
        facts[name] = round(max(said), 6) if said else None
    return facts


def _scheduled_at(pod: Object, events: Iterable[Object]) -> datetime | None:
    exact = [at for e in events if e.get("reason") == "Scheduled" and (at := moment(e.get("eventTime")))]
    if exact:
        return max(exact)
    scheduled = condition(pod, "PodScheduled")
    return moment(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None


def _pull(events: Iterable[Object], container: str) -> tuple[datetime | None, float | None]:
    """When the container's image was there, and how long it took; nothing for one that was there already."""
    for event in sorted(events, key=lambda e: str(event_time(e)), reverse=True):
        path = str((event.get("involvedObject") or {}).get("fieldPath") or "")
        if event.get("reason") == "Pulled" and (not path or f"{{{container}}}" in path):
            text = str(event.get("message") or "")
            return event_time(event), (0.0 if "already present" in text else pull_seconds(text))
    return None, None


def pull_seconds(text: str) -> float | None:
    """Seconds of ``Successfully pulled image "…" in 1m2.5s (1m10s including waiting)``: those of the pull itself."""
    found = _PULL_TOOK.search(text)
    return round(sum(float(n) * _UNIT_S[unit] for n, unit in _PART.findall(found[1])), 9) if found else None


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds, not below 0: a stamp of whole seconds may lie before what it follows."""
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())
