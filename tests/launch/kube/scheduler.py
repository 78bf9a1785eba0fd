"""The scheduler: a node for each pod, or why there is none.

Belongs here: selectors, affinity, taints, capacity, the message's text. Does not belong here: where nodes come
from (``nodes``). Not emulated: pod affinity, topology spread, preemption.
"""

from __future__ import annotations

import time
from collections import Counter
from decimal import Decimal

from tests.launch.kube.conditions import condition, is_finished, with_condition
from tests.launch.kube.events import Recorder
from tests.launch.kube.faults import Faults
from tests.launch.kube.kinds import CLAIM, NODE, POD, Obj, is_deleting, name_of, namespace_of, uid_of
from tests.launch.kube.quantities import quantity, requests
from tests.launch.kube.registry import Registry
from tests.launch.kube.selectors import matches_expression

COMPONENT = "default-scheduler"
_HARD = ("NoSchedule", "NoExecute")


def tolerates(pod: Obj, taint: Obj) -> bool:
    """Whether one of the pod's tolerations covers *taint*."""
    for toleration in pod["spec"].get("tolerations") or ():
        if toleration.get("effect") not in (None, "", taint.get("effect")):
            continue
        if toleration.get("key") not in (None, "", taint["key"]):
            continue
        if toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""):
            return True
    return False


def selects(pod: Obj, node: Obj) -> bool:
    """``nodeSelector`` and required node affinity (terms are alternatives)."""
    labels = {**(node["metadata"].get("labels") or {}), "metadata.name": name_of(node)}
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(
        all(
            matches_expression(rule, labels)
            for rule in [*(term.get("matchExpressions") or ()), *(term.get("matchFields") or ())]
        )
        for term in required["nodeSelectorTerms"]
    )


def misfit(pod: Obj, node: Obj, used: dict[str, Decimal]) -> list[str]:
    """Why *pod* cannot run on *node* with *used* taken; empty if it can. Only the first sort of reason is named."""
    spec = node.get("spec") or {}
    if spec.get("unschedulable"):
        return ["node(s) were unschedulable"]
    if any(taint["effect"] in _HARD and not tolerates(pod, taint) for taint in spec.get("taints") or ()):
        return ["node(s) had untolerated taint(s)"]
    if not selects(pod, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    has = {name: quantity(text) for name, text in node["status"]["allocatable"].items()}
    short = [
        name
        for name, amount in sorted(requests(pod).items())
        if amount > has.get(name, Decimal(0)) - used.get(name, Decimal(0))
    ]
    return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in short]


class Scheduler:
    """Binds what fits, and says why the rest does not."""

    def __init__(self, registry: Registry, events: Recorder, faults: Faults) -> None:
        self.registry, self.store, self.events, self.faults = registry, registry.store, events, faults
        self._first_seen: dict[str, float] = {}

    def sync(self) -> None:
        waiting = [
            pod for pod in self.store.all(POD) if not pod["spec"].get("nodeName") and not is_deleting(pod)
        ]
        for pod in sorted(waiting, key=lambda one: one["metadata"]["creationTimestamp"]):
            if pod["spec"]["schedulerName"] == COMPONENT and not is_finished(pod):
                self._one(pod)

    def _one(self, pod: Obj) -> None:
        waited = time.monotonic() - self._first_seen.setdefault(uid_of(pod), time.monotonic())
        slow = self.faults.for_pod(pod, uid_of(pod), "slow_schedule")
        if slow and waited < slow.after_s:
            return
        nodes = self.store.all(NODE)
        if self.faults.for_pod(pod, uid_of(pod), "unschedulable"):
            devices = sorted(name for name in requests(pod) if "/" in name) or ["cpu"]
            self._refuse(pod, Counter({f"Insufficient {devices[0]}": len(nodes)}), nodes)
            return
        for volume in pod["spec"].get("volumes") or ():
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if claim and self.store.find(CLAIM, namespace_of(pod), claim) is None:
                text = f'persistentvolumeclaim "{claim}" not found. not found'
                self._say(pod, f"0/{len(nodes)} nodes are available: {text}")
                return
        reasons: Counter[str] = Counter()
        for node in nodes:
            why = misfit(pod, node, self.used_on(name_of(node)))
            if not why:
                self._bind(pod, node)
                return
            reasons.update(why)
        self._refuse(pod, reasons, nodes)

    def used_on(self, node: str) -> dict[str, Decimal]:
        """What the pods bound to *node* ask for."""
        used: dict[str, Decimal] = {}
        for pod in self.store.all(POD):
            if pod["spec"].get("nodeName") == node and not is_finished(pod):
                for name, amount in requests(pod).items():
                    used[name] = used.get(name, Decimal(0)) + amount
        return used

    def _bind(self, pod: Obj, node: Obj) -> None:
        bound = self.registry.set_spec(POD, pod, nodeName=name_of(node))
        if bound is None:
            return
        conditions = with_condition((bound["status"].get("conditions") or []), "PodScheduled", True)
        self.registry.set_status(POD, bound, conditions=conditions)
        text = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {name_of(node)}"
        self.events.tell_new(POD, pod, "Normal", "Scheduled", text, COMPONENT, "Binding")

    def _refuse(self, pod: Obj, reasons: Counter[str], nodes: list[Obj]) -> None:
        if not nodes:
            self._say(pod, "no nodes available to schedule pods")
            return
        # Removing other pods would help only on a node that is big enough when empty.
        hopes = Counter(
            "Preemption is not helpful for scheduling."
            if misfit(pod, node, {})
            else "No preemption victims found for incoming pod."
            for node in nodes
        )
        head = f"0/{len(nodes)} nodes are available: "
        text = f"{head}{_listed(reasons)}. no new claims to deallocate, preemption: {head}{_listed(hopes)}"
        self._say(pod, text)

    def _say(self, pod: Obj, text: str) -> None:
        known = condition(pod, "PodScheduled")
        if known and known.get("message") == text:
            return
        conditions = with_condition(
            (pod["status"].get("conditions") or []), "PodScheduled", False, "Unschedulable", text
        )
        self.registry.set_status(POD, pod, conditions=conditions)
        self.events.tell_new(POD, pod, "Warning", "FailedScheduling", text, COMPONENT, "Scheduling")


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
