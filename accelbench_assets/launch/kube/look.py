"""What is seen of a run at one moment: its pods, their nodes, events, logs, and small readers of such objects.

Belongs here: the value object and how fields of Kubernetes objects are found in their JSON.
Does not belong here: fetching them (``serving``, ``driving``), what they mean (``diagnose``, ``phases``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object as parsed JSON."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A machine that was ordered for a pod: what was said against it, since when it is there (and paid for), and what
    it still waits for.
    """

    name: str
    pod: str
    said: tuple[str, ...] = ()
    launched_at: datetime | None = None
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the pods of a Deployment or Job.

    ``nodes`` holds the nodes that were asked for, ``None`` for one that is gone; ``logs`` the last lines of ended
    containers by pod name; ``claims`` the machines ordered for its pods, oldest first; ``now`` is the cluster's time,
    against which its time stamps are read.
    """

    pods: Sequence[Object]
    now: datetime
    owner: Object | None = None
    wanted: int = 1
    events: Sequence[Object] = ()
    nodes: Mapping[str, Object | None] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    claims: Sequence[Claim] = ()

    def events_of(self, name: str) -> list[Object]:
        """Events about the object called *name*."""
        return [event for event in self.events if name_of(event.get("involvedObject")) == name]


def name_of(obj: Object | None) -> str:
    """``metadata.name`` of an object, ``name`` of a reference, ``""`` of nothing."""
    if not obj:
        return ""
    return str((obj.get("metadata") or obj).get("name") or "")


def status_of(obj: Object | None) -> Object:
    """``status``; an empty mapping where there is none."""
    found = (obj or {}).get("status")
    return found if isinstance(found, Mapping) else {}


def condition(obj: Object | None, kind: str) -> Object:
    """The condition of type *kind*, wherever it stands in the list; an empty mapping if there is none."""
    for found in status_of(obj).get("conditions") or ():
        if found.get("type") == kind:
            return dict(found)
    return {}


def container_status(pod: Object, container: str, *, init: bool = False) -> Object:
    """The status of one container; an empty mapping until the kubelet has written one."""
    key = "initContainerStatuses" if init else "containerStatuses"
    for found in status_of(pod).get(key) or ():
        if found.get("name") == container:
            return dict(found)
    return {}


def terminated(container: Object) -> Object:
    """How the container ended, now or the last time before it was started again; empty if it never did."""
    for key in ("state", "lastState"):
        if found := (container.get(key) or {}).get("terminated"):
            return dict(found)
    return {}


def is_ready(pod: Object) -> bool:
    """Whether the pod takes requests and is not on its way out."""
    return condition(pod, "Ready").get("status") == "True" and not is_leaving(pod)


def is_leaving(pod: Object) -> bool:
    """Whether somebody deleted the pod; it may still run."""
    return bool((pod.get("metadata") or {}).get("deletionTimestamp"))


def is_over(pod: Object) -> bool:
    """Whether the pod has ended and stays only as a record."""
    return status_of(pod).get("phase") in ("Failed", "Succeeded")


def node_of(pod: Object) -> str:
    """The node it is bound to, ``""`` before that."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def uid_of(obj: Object | None) -> str:
    """``metadata.uid``."""
    return str(((obj or {}).get("metadata") or {}).get("uid") or "")


def moment(text: object) -> datetime | None:
    """A Kubernetes time stamp, of whole seconds or microseconds; ``None`` for anything else."""
    if not isinstance(text, str) or not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def event_time(event: Object) -> datetime | None:
    """When an event last happened; the scheduler writes ``eventTime`` alone, the kubelet ``lastTimestamp``."""
    series = event.get("series") or {}
    stamps = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((found for text in stamps if (found := moment(text))), None)


def event_count(event: Object) -> int:
    """How often it happened: repeats are counted in place."""
    return int(event.get("count") or (event.get("series") or {}).get("count") or 1)
