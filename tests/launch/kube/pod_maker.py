"""Pods from a template, as the ReplicaSet and Job controllers make them.

Belongs here: the pod's metadata, the event, the pause after a refusal. Does not belong here: how many are wanted.
"""

from __future__ import annotations

import time

from tests.launch.kube.answers import ApiError
from tests.launch.kube.deletion import DeleteOptions, delete
from tests.launch.kube.events import Recorder
from tests.launch.kube.kinds import POD, Kind, Obj, name_of, namespace_of, owner_reference, uid_of
from tests.launch.kube.registry import Registry, suffix


class PodMaker:
    """Creates and removes pods for one kind of owner."""

    def __init__(self, registry: Registry, events: Recorder, component: str) -> None:
        self.registry, self.events, self.component = registry, events, component
        self._refusals: dict[str, tuple[int, float]] = {}  # owner uid -> times in a row, not before

    def may_try(self, owner: Obj) -> bool:
        return time.monotonic() >= self._refusals.get(uid_of(owner), (0, 0.0))[1]

    def make(self, kind: Kind, owner: Obj, prefix: str, changes: Obj, spec: Obj | None = None) -> str | None:
        """The text of a refusal, or ``None``; *changes* are added to the template's metadata."""
        template = owner["spec"]["template"]
        meta = template.get("metadata") or {}
        name = f"{prefix}-{suffix()}"
        body = {
            "metadata": {
                "name": name,
                "generateName": f"{prefix}-",
                "labels": {**(meta.get("labels") or {}), **changes.get("labels", {})},
                "annotations": {**(meta.get("annotations") or {}), **changes.get("annotations", {})},
                "ownerReferences": [owner_reference(kind, owner)],
                **({"finalizers": changes["finalizers"]} if "finalizers" in changes else {}),
            },
            "spec": spec or template["spec"],
        }
        try:
            self.registry.create(POD, namespace_of(owner), body)
        except ApiError as error:
            tries = self._refusals.get(uid_of(owner), (0, 0.0))[0] + 1
            self._refusals[uid_of(owner)] = (tries, time.monotonic() + min(0.005 * 2**tries, 5.0))
            text = f"Error creating: {error.message}"
            self.events.tell(kind, owner, "Warning", "FailedCreate", text, self.component)
            return error.message
        self._refusals.pop(uid_of(owner), None)
        self.events.tell(kind, owner, "Normal", "SuccessfulCreate", f"Created pod: {name}", self.component)
        return None

    def remove(self, kind: Kind, owner: Obj, pod: Obj) -> None:
        delete(self.registry, POD, namespace_of(pod), name_of(pod), DeleteOptions(policy="Background"))
        text = f"Deleted pod: {name_of(pod)}"
        self.events.tell(kind, owner, "Normal", "SuccessfulDelete", text, self.component)
