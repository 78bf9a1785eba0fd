"""The Deployment controller: one ReplicaSet per template, and the way from the old to the new.

Belongs here: Recreate, rolling updates, conditions, the progress deadline. Does not belong here: pods
(``replica_sets``).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from typing import Any

from tests.launch.kube.conditions import condition, is_finished, pods_by_owner, with_condition
from tests.launch.kube.events import Recorder
from tests.launch.kube.kinds import (
    DEPLOYMENT,
    REPLICA_SET,
    Obj,
    controller_of,
    is_deleting,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from tests.launch.kube.moments import stamp
from tests.launch.kube.registry import LETTERS, Registry

HASH_LABEL = "pod-template-hash"
COMPONENT = "deployment-controller"


def template_hash(template: Obj) -> str:
    """Ten characters, the same for the same template."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:10])


def share(value: Any, whole: int, *, up: bool) -> int:
    """``maxSurge`` or ``maxUnavailable`` as a number of pods."""
    if isinstance(value, str) and value.endswith("%"):
        exact = whole * int(value[:-1]) / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


@dataclass
class _Progress:
    seen: tuple[Any, ...]
    at: float


class Deployments:
    """Level-triggered, as the other controllers."""

    def __init__(self, registry: Registry, events: Recorder) -> None:
        self.registry, self.store, self.events = registry, registry.store, events
        self._progress: dict[str, _Progress] = {}

    def sync(self) -> None:
        pods = pods_by_owner(self.store)
        owned: dict[str, list[Obj]] = {}
        for replica_set in self.store.all(REPLICA_SET):
            if (owner := controller_of(replica_set)) is not None:
                owned.setdefault(owner["uid"], []).append(replica_set)
        for deployment in self.store.all(DEPLOYMENT):
            if not is_deleting(deployment):
                self._one(deployment, owned.get(uid_of(deployment), []), pods)

    def _one(self, deployment: Obj, sets: list[Obj], pods: dict[str, list[Obj]]) -> None:
        wanted = deployment["spec"]["replicas"]
        mark = template_hash(deployment["spec"]["template"])
        current = next((one for one in sets if one["metadata"]["labels"].get(HASH_LABEL) == mark), None)
        old = [one for one in sets if one is not current]
        old_pods = [pod for one in old for pod in pods.get(uid_of(one), []) if not is_finished(pod)]
        if deployment["spec"]["strategy"]["type"] == "Recreate":
            for one in old:
                self._scale(deployment, one, 0)
            target = 0 if old_pods else wanted
            if current is None and old_pods:
                self._status(deployment, None, sets, old_pods)
                return
        else:
            target = self._roll(deployment, wanted, current, old)
        if current is None:
            current = self._new_set(deployment, mark, target)
        else:
            current = self._scale(deployment, current, target)
        self._status(deployment, current, sets, old_pods)

    def _roll(self, deployment: Obj, wanted: int, current: Obj | None, old: list[Obj]) -> int:
        """Scale old ReplicaSets down as far as allowed; how many the new one may have."""
        rolling = deployment["spec"]["strategy"]["rollingUpdate"]
        surge = share(rolling["maxSurge"], wanted, up=True)
        missing = share(rolling["maxUnavailable"], wanted, up=False)
        sets = [*old, *([current] if current else [])]
        available = sum((one.get("status") or {}).get("availableReplicas", 0) for one in sets)
        spare = max(0, available - (wanted - (missing if surge or missing else 1)))
        for one in old:
            has = (one.get("status") or {}).get("availableReplicas", 0)
            cut = min(has, spare) + max(0, one["spec"]["replicas"] - has)  # those that never ran go first
            self._scale(deployment, one, max(0, one["spec"]["replicas"] - cut))
            spare -= min(has, spare)
        now = [self.store.current(REPLICA_SET, one) for one in old]
        left: int = sum(one["spec"]["replicas"] for one in now if one is not None)
        return max(0, min(wanted, wanted + surge - left))

    def _scale(self, deployment: Obj, replica_set: Obj, replicas: int) -> Obj:
        before = replica_set["spec"]["replicas"]
        if before == replicas:
            return replica_set
        word = "up" if replicas > before else "down"
        text = f"Scaled {word} replica set {name_of(replica_set)} from {before} to {replicas}"
        self.events.tell(DEPLOYMENT, deployment, "Normal", "ScalingReplicaSet", text, COMPONENT)
        meta_changed = self.registry.set_spec(REPLICA_SET, replica_set, replicas=replicas)
        return meta_changed or replica_set

    def _new_set(self, deployment: Obj, mark: str, replicas: int) -> Obj:
        template = deployment["spec"]["template"]
        meta = template.get("metadata") or {}
        labels = {**(meta.get("labels") or {}), HASH_LABEL: mark}
        selector = deployment["spec"]["selector"]
        match_labels = {**(selector.get("matchLabels") or {}), HASH_LABEL: mark}
        name = f"{name_of(deployment)}-{mark}"
        body = {
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": deployment["metadata"].get("annotations") or {},
                "ownerReferences": [owner_reference(DEPLOYMENT, deployment)],
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": deployment["spec"].get("minReadySeconds", 0),
                "selector": {**selector, "matchLabels": match_labels},
                "template": {**template, "metadata": {**meta, "labels": labels}},
            },
        }
        created = self.registry.create(REPLICA_SET, namespace_of(deployment), body)
        text = f"Scaled up replica set {name} from 0 to {replicas}"
        self.events.tell(DEPLOYMENT, deployment, "Normal", "ScalingReplicaSet", text, COMPONENT)
        return created

    def _status(self, deployment: Obj, current: Obj | None, sets: list[Obj], old_pods: list[Obj]) -> None:
        wanted = deployment["spec"]["replicas"]
        every = {
            uid_of(one): self.store.current(REPLICA_SET, one) or one
            for one in [*sets, *([current] if current else [])]
        }

        def total(field: str) -> int:
            return sum((one.get("status") or {}).get(field, 0) for one in every.values())

        counts = {name: total(name) for name in ("replicas", "readyReplicas", "availableReplicas")}
        counts["updatedReplicas"] = ((current or {}).get("status") or {}).get("replicas", 0)
        counts["unavailableReplicas"] = max(0, wanted - counts["availableReplicas"])
        done = counts["updatedReplicas"] == wanted == counts["availableReplicas"] and not old_pods
        conditions = list((deployment.get("status") or {}).get("conditions") or [])
        missing = share(
            (deployment["spec"]["strategy"].get("rollingUpdate") or {}).get("maxUnavailable", 0),
            wanted,
            up=False,
        )
        enough = counts["availableReplicas"] >= wanted - missing
        conditions = with_condition(
            conditions, "Available", enough,
            "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            f"Deployment {'has' if enough else 'does not have'} minimum availability.",
            extra={"lastUpdateTime": stamp_of(conditions, "Available")},
        )  # fmt: skip
        conditions = self._progressing(deployment, current, conditions, counts, done=done)
        failure = next((found for one in every.values() if (found := condition(one, "ReplicaFailure"))), None)
        conditions = [one for one in conditions if one["type"] != "ReplicaFailure"]
        if failure:
            conditions.append({**failure, "lastUpdateTime": failure["lastTransitionTime"]})
        self.registry.set_status(
            DEPLOYMENT,
            deployment,
            observedGeneration=deployment["metadata"]["generation"],
            conditions=conditions,
            **{name: count or None for name, count in counts.items()},
        )

    def _progressing(
        self,
        deployment: Obj,
        current: Obj | None,
        conditions: list[Obj],
        counts: dict[str, int],
        *,
        done: bool,
    ) -> list[Obj]:
        seen = (uid_of(current) if current else "", *sorted(counts.items()), deployment["spec"]["replicas"])
        known = self._progress.get(uid_of(deployment))
        if known is None or known.seen != seen:
            known = self._progress[uid_of(deployment)] = _Progress(seen, time.monotonic())
        name = name_of(current) if current else ""
        before = next((one for one in conditions if one["type"] == "Progressing"), None)
        if done:
            status, reason, text = (
                True,
                "NewReplicaSetAvailable",
                f'ReplicaSet "{name}" has successfully progressed.',
            )
        elif before and before["reason"] == "NewReplicaSetAvailable" and name in before["message"]:
            return conditions  # a set that was complete once no longer counts towards the deadline
        elif time.monotonic() - known.at > deployment["spec"]["progressDeadlineSeconds"]:
            status, reason, text = (
                False,
                "ProgressDeadlineExceeded",
                f'ReplicaSet "{name}" has timed out progressing.',
            )
        elif before is None:
            status, reason, text = True, "NewReplicaSetCreated", f'Created new replica set "{name}"'
        else:
            status, reason, text = True, "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.'
        extra = {"lastUpdateTime": stamp_of(conditions, "Progressing")}
        return with_condition(conditions, "Progressing", status, reason, text, extra=extra)


def stamp_of(conditions: list[Obj], type_: str) -> str:
    """When the condition was last written; kept, so that an unchanged one is no change."""
    found = next((one for one in conditions if one["type"] == type_), None)
    return str(found["lastUpdateTime"]) if found and "lastUpdateTime" in found else stamp()
