"""The ReplicaSet controller: as many pods as wanted.

Belongs here: creating and removing pods, their counts, ReplicaFailure. Does not belong here: which ReplicaSet a
Deployment wants (``deployments``).
"""

from __future__ import annotations

from tests.launch.kube.conditions import (
    condition,
    is_active,
    is_finished,
    is_ready,
    pods_by_owner,
    seconds_since,
    with_condition,
)
from tests.launch.kube.events import Recorder
from tests.launch.kube.kinds import REPLICA_SET, Obj, is_deleting, name_of, uid_of
from tests.launch.kube.pod_maker import PodMaker
from tests.launch.kube.registry import Registry


class ReplicaSets:
    """Level-triggered: each look compares what is with what should be."""

    def __init__(self, registry: Registry, events: Recorder) -> None:
        self.registry = registry
        self.maker = PodMaker(registry, events, "replicaset-controller")

    def sync(self) -> None:
        owned = pods_by_owner(self.registry.store)
        for replica_set in self.registry.store.all(REPLICA_SET):
            if not is_deleting(replica_set):
                self._one(replica_set, owned.get(uid_of(replica_set), []))

    def _one(self, replica_set: Obj, pods: list[Obj]) -> None:
        wanted = replica_set["spec"]["replicas"]
        active = [pod for pod in pods if is_active(pod)]
        refusal = None
        if len(active) < wanted and self.maker.may_try(replica_set):
            for _ in range(wanted - len(active)):
                refusal = self.maker.make(REPLICA_SET, replica_set, name_of(replica_set), {})
                if refusal:
                    break
        elif len(active) < wanted:
            known = condition(replica_set, "ReplicaFailure")
            refusal = known["message"] if known else None
        # Pods that do not run yet go first, then the youngest.
        by_worth = sorted(active, key=lambda pod: (is_ready(pod), pod["metadata"]["creationTimestamp"]))
        for pod in by_worth[: max(0, len(active) - wanted)]:
            self.maker.remove(REPLICA_SET, replica_set, pod)
        self._status(replica_set, [pod for pod in pods if not is_finished(pod)], refusal)

    def _status(self, replica_set: Obj, pods: list[Obj], refusal: str | None) -> None:
        least = replica_set["spec"].get("minReadySeconds", 0)
        ready = [pod for pod in pods if is_ready(pod) and not is_deleting(pod)]
        available = [pod for pod in ready if ready_for(pod) >= least]
        conditions = (replica_set.get("status") or {}).get("conditions") or []
        if refusal:
            conditions = with_condition(conditions, "ReplicaFailure", True, "FailedCreate", refusal)
        else:
            conditions = [one for one in conditions if one["type"] != "ReplicaFailure"]
        self.registry.set_status(
            REPLICA_SET,
            replica_set,
            replicas=len([pod for pod in pods if not is_deleting(pod)]),
            readyReplicas=len(ready) or None,
            availableReplicas=len(available) or None,
            observedGeneration=replica_set["metadata"]["generation"],
            conditions=conditions or None,
        )


def ready_for(pod: Obj) -> float:
    """Seconds, from whole-second stamps."""
    since = condition(pod, "Ready")
    return seconds_since(since["lastTransitionTime"]) if since else 0.0
