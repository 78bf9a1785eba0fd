"""Pods that the cluster took away, nodes that went with them, servers that died while they were used.

Belongs here: pure decisions over a ``Look`` of what was running. Does not belong here: why a pod does not come up
(``diagnose``).

A node that stops answering keeps its pods ``Running`` for minutes, so nodes are looked at too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

from accelbench_assets.launch.kube.logtext import cause_in
from accelbench_assets.launch.kube.look import (
    Look,
    Object,
    condition,
    container_status,
    is_leaving,
    is_over,
    moment,
    name_of,
    node_of,
    status_of,
    terminated,
)
from accelbench_assets.launch.kube.trouble import Trouble, how_it_ended

NOT_READY_S = 60.0
"""A kubelet that says its node is not ready so long (by the cluster's clock) has lost it; it may pass before that."""

_EVICTING = {
    "EvictionByEvictionAPI": "evicted",
    "TerminationByKubelet": "evicted",
    "PreemptionByScheduler": "evicted",
}
_ENDED_BY_NODE = ("NodeLost", "Shutdown", "NodeShutdown", "Terminated", "NodeAffinity")


class InUse(NamedTuple):
    """What a pod was when all was well: its node, and how often its container had been restarted."""

    node: str
    restarts: int


def in_use(pods: Iterable[Object], container: str) -> dict[str, InUse]:
    """By pod name, to be compared with later looks."""
    return {
        name_of(pod): InUse(node_of(pod), int(container_status(pod, container).get("restartCount") or 0))
        for pod in pods
    }


def running_trouble(look: Look, container: str, expected: Mapping[str, InUse]) -> Trouble | None:
    """What ended or is ending a pod that was serving; *expected* from ``in_use``."""
    pods = {name_of(pod): pod for pod in look.pods}
    for name, was in expected.items():
        pod = pods.get(name)
        if why := _node_trouble(was.node, look):
            return Trouble("node_lost", f"{why}; pod {name} was on it.", pod=name)
        if pod is None:
            return Trouble("evicted", f"Pod {name} is gone: it was deleted while it was in use.", pod=name)
        if found := lost(pod, look):
            return found
        if is_leaving(pod):
            return Trouble("evicted", f"Pod {name} was deleted while it was in use.", pod=name)
        status = container_status(pod, container)
        ended = (status.get("state") or {}).get("terminated")
        if ended or int(status.get("restartCount") or 0) > was.restarts or is_over(pod):
            ended = terminated(status)
            return _death(name, ended, look.logs.get(name) or str(ended.get("message") or ""))
    return None


def _death(name: str, ended: Object, log: str) -> Trouble:
    if ended.get("reason") == "OOMKilled":
        return Trouble(
            "oom", f"The server in pod {name} ran out of the node's memory and was killed.", pod=name
        )
    how = how_it_ended(ended)
    said = cause_in(log)
    because = f": {said.line}" if said else ""
    return Trouble("crashed", f"The server in pod {name} ended during the run ({how}){because}.", pod=name)


def lost(pod: Object, look: Look) -> Trouble | None:
    """Whether the pod's node is lost, or the pod was made to go by the cluster."""
    name, node, status = name_of(pod), node_of(pod), status_of(pod)
    if why := _node_trouble(node, look):
        return Trouble("node_lost", f"{why}; pod {name} was on it.", retryable=True, pod=name)
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "").strip()
    if is_over(pod) and reason in _ENDED_BY_NODE:
        return Trouble(
            "node_lost", f"Node {node} ended pod {name}: {message or reason}", retryable=True, pod=name
        )
    if was_evicted(pod):
        return Trouble("evicted", f"Pod {name} was evicted: {message or reason}", retryable=True, pod=name)
    target = condition(pod, "DisruptionTarget")
    if target.get("status") == "True":
        why = str(target.get("reason") or "")
        text = (
            f"The cluster is taking pod {name} away ({why}): {target.get('message') or 'it gives no reason'}"
        )
        return Trouble(_EVICTING.get(why, "node_lost"), text, retryable=True, pod=name)
    if node not in look.nodes and condition(pod, "Ready").get("status") == "False":
        for event in look.events_of(name):
            if event.get("reason") == "NodeNotReady":
                return Trouble(
                    "node_lost", f"Node {node} of pod {name} is not ready.", retryable=True, pod=name
                )
    return None


def _node_trouble(name: str, look: Look) -> str | None:
    if not name or name not in look.nodes:
        return None
    node = look.nodes[name]
    if node is None:
        return f"Node {name} is gone"
    ready = condition(node, "Ready")
    since = moment(ready.get("lastTransitionTime"))
    lasting = since is not None and look.now - since >= timedelta(seconds=NOT_READY_S)
    if ready.get("status") == "Unknown" or (ready.get("status") == "False" and lasting):
        return (
            f"Node {name} is not ready ({ready.get('message') or ready.get('reason') or ready.get('status')})"
        )
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("key") in ("node.kubernetes.io/unreachable", "node.kubernetes.io/out-of-service"):
            return f"Node {name} cannot be reached"
    return None


def was_evicted(pod: Object) -> bool:
    """Whether the kubelet or the scheduler ended it for another's sake; the record of it stays."""
    return is_over(pod) and status_of(pod).get("reason") in ("Evicted", "Preempting", "Preempted")
