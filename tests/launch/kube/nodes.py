"""Nodes: those there are, those that come when a pod needs them, those that are lost.

Belongs here: provisioning delays, readiness, taints, evictions from lost nodes, pods of nodes that
are gone. Does not belong here: what a node looks like (``node_specs``), placing pods (``scheduler``), processes
(``kubelet``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.launch.kube.claims import order
from tests.launch.kube.conditions import condition, is_finished, seconds_since, with_condition
from tests.launch.kube.deletion import DeleteOptions, delete, evict
from tests.launch.kube.events import Recorder
from tests.launch.kube.kinds import NODE, POD, Obj, is_deleting, name_of, namespace_of, uid_of
from tests.launch.kube.moments import Pace, stamp
from tests.launch.kube.node_specs import NodeSpec
from tests.launch.kube.registry import Registry, suffix
from tests.launch.kube.scheduler import misfit, tolerates

GRACE_S = 50.0  # from the last sign of life to Ready Unknown
COLLECT_S = 40.0  # from a node's end to the end of its pods
UNREACHABLE = "node.kubernetes.io/unreachable"


class Nodes:
    """The node life cycle; ``on_lost`` tells the kubelets."""

    def __init__(self, registry: Registry, events: Recorder, pace: Pace, specs: tuple[NodeSpec, ...]) -> None:
        self.registry, self.store, self.events, self.pace = registry, registry.store, events, pace
        self.specs = specs
        self.on_lost: Callable[[str], None] = lambda _name: None
        self._ordered: dict[str, float] = {}  # declared node -> when it comes
        self._lost: dict[str, float] = {}  # node -> when its kubelet fell silent
        self._draining: set[str] = set()
        # Node that never comes, uid of the pod it was ordered for.
        self._in_vain: set[tuple[str, str]] = set()
        self._homeless: dict[str, float] = {}  # pod uid -> when its node was seen gone

    def start(self) -> None:
        for spec in self.specs:
            if spec.after_s is None:
                self.add(spec)

    def add(self, spec: NodeSpec) -> None:
        wanted = spec.object()
        created = self.registry.create(NODE, None, wanted)
        self.registry.set_status(NODE, created, **wanted["status"])
        self.events.tell(
            NODE, created, "Normal", "NodeReady", f"Node {spec.name} status is now: NodeReady", "kubelet"
        )

    def is_silent(self, node: str) -> bool:
        return node in self._lost

    def sync(self) -> None:
        self._provision()
        for name, since in self._lost.items():
            if time.monotonic() - since >= self.pace(GRACE_S):
                self._mark_unknown(name)
        self._end_drained()
        self._evict()
        self._collect()

    def _provision(self) -> None:
        there = {name_of(node) for node in self.store.all(NODE)}
        waiting = [
            pod
            for pod in self.store.all(POD)
            if not pod["spec"].get("nodeName") and not is_deleting(pod) and condition(pod, "PodScheduled")
        ]
        free = [
            spec
            for spec in self.specs
            if spec.after_s is not None and not spec.never and spec.name not in {*there, *self._ordered}
        ]
        promised = len(self._ordered)
        for spec in free:
            fitting = [pod for pod in waiting if not misfit(pod, spec.object(), {})]
            if len(fitting) > promised:
                pod = fitting[promised]
                promised += 1
                self._ordered[spec.name] = time.monotonic() + (spec.after_s or 0.0)
                self._order(spec, pod)
        for name in [name for name, when in self._ordered.items() if time.monotonic() >= when]:
            del self._ordered[name]
            self.add(next(spec for spec in self.specs if spec.name == name))
        for spec in (one for one in self.specs if one.never):
            for pod in waiting:
                if (spec.name, uid_of(pod)) not in self._in_vain and not misfit(pod, spec.object(), {}):
                    self._in_vain.add((spec.name, uid_of(pod)))
                    self._order(spec, pod)

    def _order(self, spec: NodeSpec, pod: Obj) -> None:
        claim = order(self.store, self.events, spec, f"{spec.name}-{suffix()}")
        text = f"Pod should schedule on: nodeclaim/{claim}"
        self.events.tell_new(POD, pod, "Normal", "Nominated", text, "karpenter", "Nominated")

    def lose(self, name: str, *, unknown_after_s: float | None = None) -> None:
        """The node falls silent: its processes are out of reach, nothing more is heard of its pods."""
        self.store.get(NODE, None, name)
        silent_for = self.pace(GRACE_S)
        self._lost[name] = (
            time.monotonic() - silent_for + (silent_for if unknown_after_s is None else unknown_after_s)
        )
        self.on_lost(name)

    def _mark_unknown(self, name: str) -> None:
        node = self.store.find(NODE, None, name)
        ready = condition(node, "Ready") if node else None
        if node is None or ready is None or ready["status"] == "Unknown":
            return
        conditions = with_condition(
            node["status"]["conditions"], "Ready", "Unknown", "NodeStatusUnknown",
            "Kubelet stopped posting node status.",
        )  # fmt: skip
        self.registry.set_status(NODE, node, conditions=conditions)
        taints = list(node["spec"].get("taints") or ())
        for effect in ("NoSchedule", "NoExecute"):
            taints.append({"key": UNREACHABLE, "effect": effect, "timeAdded": stamp()})
        self.registry.set_spec(NODE, node, taints=taints)
        text = f"Node {name} status is now: NodeNotReady"
        self.events.tell(NODE, node, "Normal", "NodeNotReady", text, "node-controller")
        for pod in self._pods_on(name):
            lost = with_condition(pod["status"].get("conditions") or [], "Ready", False)
            self.registry.set_status(POD, pod, conditions=lost)
            self.events.tell(POD, pod, "Warning", "NodeNotReady", "Node is not ready", "node-controller")

    def bring_back(self, name: str) -> None:
        """The kubelet speaks again; what ran there is gone."""
        self._lost.pop(name, None)
        node = self.store.get(NODE, None, name)
        conditions = with_condition(
            node["status"]["conditions"], "Ready", True, "KubeletReady", "kubelet is posting ready status"
        )
        self.registry.set_status(NODE, node, conditions=conditions)
        taints = [one for one in node["spec"].get("taints") or () if one["key"] != UNREACHABLE]
        self.registry.set_spec(NODE, node, taints=taints)

    def drain(self, name: str, reason: str) -> None:
        """As Karpenter takes a node away: no new pods, eviction of those there are, then the node goes."""
        node = self.store.get(NODE, None, name)
        taint = {"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}
        self.registry.set_spec(NODE, node, taints=[*(node["spec"].get("taints") or ()), taint])
        text = f"Disrupting Node: {reason}"
        self.events.tell(NODE, node, "Normal", "DisruptionTerminating", text, "karpenter")
        for pod in self._pods_on(name):
            self.events.tell(POD, pod, "Normal", "Evicted", f"Evicted pod: {reason}", "karpenter")
            evict(self.registry, pod, DeleteOptions())
        self._draining.add(name)

    def _end_drained(self) -> None:
        leaving = {pod["spec"].get("nodeName") for pod in self.store.all(POD) if is_deleting(pod)}
        for name in [name for name in self._draining if name not in leaving and not self._pods_on(name)]:
            self._draining.discard(name)
            self.forget(name)

    def forget(self, name: str) -> None:
        """The machine and its Node object are gone."""
        node = self.store.get(NODE, None, name)
        self.store.drop(NODE, node)
        self._lost.pop(name, None)
        self.on_lost(name)

    def _pods_on(self, name: str) -> list[Obj]:
        return [
            pod for pod in self.store.all(POD) if pod["spec"].get("nodeName") == name and not is_finished(pod)
        ]

    def _evict(self) -> None:
        for node in self.store.all(NODE):
            for taint in node["spec"].get("taints") or ():
                if taint["effect"] == "NoExecute":
                    for pod in self._pods_on(name_of(node)):
                        if not is_deleting(pod) and self._time_is_up(pod, taint):
                            self._mark_for_deletion(pod)

    def _time_is_up(self, pod: Obj, taint: Obj) -> bool:
        if not tolerates(pod, taint):
            return True
        limits = [
            one["tolerationSeconds"]
            for one in pod["spec"]["tolerations"]
            if one.get("tolerationSeconds") is not None and tolerates({"spec": {"tolerations": [one]}}, taint)
        ]
        waited = seconds_since(taint["timeAdded"]) if taint.get("timeAdded") else 0.0
        return bool(limits) and waited >= self.pace(min(limits))

    def _mark_for_deletion(self, pod: Obj) -> None:
        text = "Taint manager: deleting due to NoExecute taint"
        conditions = with_condition(
            pod["status"].get("conditions") or [], "DisruptionTarget", True, "DeletionByTaintManager", text
        )
        self.registry.set_status(POD, pod, conditions=conditions)
        text = f"Marking for deletion Pod {namespace_of(pod)}/{name_of(pod)}"
        self.events.tell(POD, pod, "Normal", "TaintManagerEviction", text, "taint-eviction-controller")
        delete(self.registry, POD, namespace_of(pod), name_of(pod), DeleteOptions())

    def _collect(self) -> None:
        """Pods bound to a node that does not exist go after a while; see PodGC."""
        there = {name_of(node) for node in self.store.all(NODE)}
        for pod in self.store.all(POD):
            node = pod["spec"].get("nodeName")
            if not node or node in there:
                continue
            since = self._homeless.setdefault(uid_of(pod), time.monotonic())
            if time.monotonic() - since < self.pace(COLLECT_S):
                continue
            if not is_finished(pod):
                conditions = with_condition(
                    pod["status"].get("conditions") or [], "DisruptionTarget", True, "DeletionByPodGC",
                    "PodGC: node no longer exists",
                )  # fmt: skip
                self.registry.set_status(POD, pod, phase="Failed", conditions=conditions)
            if not is_deleting(pod) or pod["metadata"].get("deletionGracePeriodSeconds") != 0:
                options = DeleteOptions(grace_s=0, uid=uid_of(pod))
                delete(self.registry, POD, namespace_of(pod), name_of(pod), options)
