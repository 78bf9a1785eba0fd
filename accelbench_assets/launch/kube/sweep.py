"""Removing every object of a run and waiting until it is gone.

Belongs here: which kinds a run has, in which order they go, when a pod is removed by force.
Does not belong here: which runs have to go and what is recorded of them (``reap``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.client import Cluster, Object
from accelbench_assets.launch.kube.errors import KubeError

KINDS: Final = ("ConfigMap", "Deployment", "Job", "ReplicaSet", "Pod", "Service", "Lease")
"""Every kind of which a run has objects, makers before what they make, the Lease last."""
_STUCK = timedelta(seconds=5)
_LOOK_S = 0.3


@dataclass(slots=True)
class Found:
    """Objects with our label by the run they belong to (``run12``), and kinds that could not be listed."""

    by_run: dict[str, list[Object]] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)


def find(cluster: Cluster, run_id: str | None = None) -> Found:
    """Our objects, of all runs or one. ``KubeError`` if the Leases cannot be listed: then nobody can be judged.

    Leases are listed last: of a run that starts meanwhile, an object without a Lease is too young to go.
    """
    found = Found()
    for kind in KINDS:
        try:
            items = cluster.list(kind, labels=naming.selector(run_id))
        except KubeError as error:
            if kind == "Lease" or error.status == 0:
                raise
            found.unseen[kind] = error.message
            continue
        for item in items:
            if run := (item["metadata"].get("labels") or {}).get(naming.RUN_LABEL):
                found.by_run.setdefault(run, []).append(item)
    return found


@dataclass(slots=True)
class Sweep:
    """How far the removal of one run came: names seen, names left, the last error."""

    run12: str
    seen: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    error: str | None = None

    def note(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Take a look's *objects* as all that is left."""
        self.left = {called(one) for one in objects}
        self.seen |= self.left


def called(one: Mapping[str, Any]) -> str:
    """``Pod/accelbench-…``: an object's kind and name."""
    return f"{one['kind']}/{one['metadata']['name']}"


def sweep(
    cluster: Cluster,
    first: Mapping[str, list[Object]],
    *,
    wait_s: float,
    look: Callable[[], Found],
    may_go: Callable[[str], bool] = lambda _: True,
) -> dict[str, Sweep]:
    """Remove all objects of the runs in *first* and wait, at most *wait_s* in all, until none is left.

    *look* lists them anew; *may_go* is asked once about each run just before its first deletion. An error with one
    object or run keeps no other from going.
    """
    end = time.monotonic() + wait_s
    sweeps: dict[str, Sweep] = {}
    going: dict[str, Sweep] = {}
    for run12, objects in first.items():
        one = Sweep(run12)
        one.note(objects)
        try:
            if not may_go(run12):
                continue
        except LaunchError as error:
            one.error = error.message
        else:
            going[run12] = one
            _delete(cluster, one, objects)
        sweeps[run12] = one
    nodes = _Nodes(cluster)
    while going:
        try:
            found = look()
        except KubeError as error:
            for one in going.values():
                one.error = error.message
            break
        for run12, one in going.items():
            # A kind that could not be listed may still hold what was seen of it before.
            hidden = {name for name in one.left if name.partition("/")[0] in found.unseen}
            one.note(found.by_run.get(run12, []))
            one.left |= hidden
        if not any(one.left for one in going.values()) or time.monotonic() >= end:
            break
        nodes.forget()
        for run12, one in going.items():
            _push(cluster, one, found.by_run.get(run12, []), nodes)
        time.sleep(_LOOK_S)
    return sweeps


def _delete(cluster: Cluster, one: Sweep, objects: Collection[Object]) -> None:
    """Ask for the end of everything, the anchor first: it takes along what it owns even if we are stopped here."""
    anchors = [o for o in objects if _component(o) == "anchor"]
    rest = [o for o in objects if _component(o) != "anchor"]
    for item in (*anchors, *sorted(rest, key=lambda o: KINDS.index(o["kind"]))):
        if not item["metadata"].get("deletionTimestamp"):
            _try(one, partial(cluster.delete, item["kind"], item["metadata"]["name"]))


def _push(cluster: Cluster, one: Sweep, objects: Collection[Object], nodes: _Nodes) -> None:
    """Once more what is still there, by force the pods whose node will never confirm their end."""
    _delete(cluster, one, objects)
    for item in objects:
        if item["kind"] != "Pod" or not (due := item["metadata"].get("deletionTimestamp")):
            continue
        due_at = naming.parse_time(due)  # it includes the pod's grace
        late = due_at is not None and cluster.server_time() > due_at + _STUCK
        if late or nodes.lost((item.get("spec") or {}).get("nodeName")):
            _try(one, partial(cluster.delete, "Pod", item["metadata"]["name"], grace_s=0))


def _try(one: Sweep, call: Callable[[], Any]) -> None:
    try:
        call()
        one.error = None
    except KubeError as error:
        one.error = error.message


def _component(item: Mapping[str, Any]) -> str:
    return str((item["metadata"].get("labels") or {}).get(naming.COMPONENT_LABEL) or "")


class _Nodes:
    """Which nodes are gone or not ready, asked once a look."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lost: dict[str, bool] = {}

    def forget(self) -> None:
        """Ask again next time."""
        self._lost = {}

    def lost(self, name: str | None) -> bool:
        """Whether the node is known to be gone or not ready; one we may not read counts as there."""
        if not name:
            return False
        if name not in self._lost:
            try:
                self._lost[name] = _is_lost(self._cluster.get("Node", name))
            except KubeError:
                self._lost[name] = False
        return self._lost[name]


def _is_lost(node: Mapping[str, Any] | None) -> bool:
    if node is None:
        return True
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") != "True" for c in conditions)
