"""The status of a pod, as it follows from its containers.

Belongs here: phase, conditions, addresses. Does not belong here: writing it (``pod_run``), the containers' own states
(``container``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.launch.kube.conditions import with_condition
from tests.launch.kube.kinds import Obj

if TYPE_CHECKING:
    from tests.launch.kube.pod_run import PodRun


def fields(run: PodRun, pod: Obj) -> Obj:
    """What the kubelet writes; the address comes only with Running."""
    phase = phase_of(run)
    found: Obj = {
        "phase": phase,
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "startTime": run.since,
        "qosClass": "Burstable",
        "conditions": _conditions(run, pod, phase),
        "containerStatuses": [container.status() for container in run.containers],
    }
    if run.init:
        found["initContainerStatuses"] = [container.status() for container in run.init]
    if run.was_running or phase in ("Running", "Succeeded", "Failed"):
        found |= {"podIP": run.ip, "podIPs": [{"ip": run.ip}]}
    if run.evicted:
        found |= {"reason": "Evicted", "message": run.evicted}
    return found


def phase_of(run: PodRun) -> str:
    if run.evicted:
        return "Failed"
    if any(one.is_over and one.exit_code for one in run.init) and run.restart_policy == "Never":
        return "Failed"
    if not all(one.is_over and not one.exit_code for one in run.init):
        return "Pending"
    over = [container.is_over for container in run.containers]
    bad = any(container.exit_code for container in run.containers if container.is_over)
    if all(over) and (run.is_ending or _stays_over(run)):
        return "Failed" if bad else "Succeeded"
    if run.was_running or any(over):
        return "Running" if all(container.attempt >= 0 for container in run.containers) else "Pending"
    return "Pending"


def _stays_over(run: PodRun) -> bool:
    clean = all(container.exit_code == 0 for container in run.containers)
    return run.restart_policy == "Never" or (run.restart_policy == "OnFailure" and clean)


def _conditions(run: PodRun, pod: Obj, phase: str) -> list[Obj]:
    conditions = list((pod.get("status") or {}).get("conditions") or [])
    has_sandbox = run.mounted and phase in ("Pending", "Running")
    conditions = with_condition(conditions, "PodReadyToStartContainers", has_sandbox)
    missing = [one.name for one in run.init if not (one.is_over and not one.exit_code)]
    if missing:
        text = f"containers with incomplete status: [{' '.join(missing)}]"
        conditions = with_condition(conditions, "Initialized", False, "ContainersNotInitialized", text)
    else:
        conditions = with_condition(conditions, "Initialized", True)
    unready = [container.name for container in run.containers if not container.ready]
    if phase in ("Succeeded", "Failed"):
        reason, text = ("PodCompleted" if phase == "Succeeded" else "PodFailed"), ""
    else:
        reason, text = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    for name in ("Ready", "ContainersReady"):
        if unready:
            conditions = with_condition(conditions, name, False, reason, text)
        else:
            conditions = with_condition(conditions, name, True)
    if run.evicted:
        text = "The node was low on resource: memory."
        conditions = with_condition(conditions, "DisruptionTarget", True, "TerminationByKubelet", text)
    return conditions
