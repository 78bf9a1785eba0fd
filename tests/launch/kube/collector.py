"""The garbage collector: what becomes of dependents and of deleted namespaces.

Belongs here: owner references, the foreground and orphan finalizers, terminating namespaces. Does not belong here:
the delete call itself (``deletion``).
"""

from __future__ import annotations

from tests.launch.kube.deletion import FOREGROUND, ORPHAN, DeleteOptions, delete
from tests.launch.kube.kinds import (
    BY_NAME,
    EVENT,
    NAMESPACE,
    Kind,
    Obj,
    is_deleting,
    name_of,
    namespace_of,
    uid_of,
)
from tests.launch.kube.registry import Registry

BACKGROUND = DeleteOptions(policy="Background")
IN_FOREGROUND = DeleteOptions(policy="Foreground")


class Collector:
    """Looks at everything, as often as it is asked; what it does is visible at the next look."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.store = registry.store

    def sync(self) -> None:
        """One look."""
        objects = list(self.store.everything())
        by_uid = {uid_of(obj): (kind, obj) for kind, obj in objects}
        dependents: dict[str, list[tuple[Kind, Obj]]] = {}
        for kind, obj in objects:
            for reference in obj["metadata"].get("ownerReferences") or ():
                dependents.setdefault(reference["uid"], []).append((kind, obj))
        for kind, obj in objects:
            if is_deleting(obj):
                self._finalize(kind, obj, dependents.get(uid_of(obj), []))
            if kind is NAMESPACE and is_deleting(obj):
                self._empty(name_of(obj), obj)
            elif obj["metadata"].get("ownerReferences"):
                self._owned(kind, obj, by_uid)

    def _remove(self, kind: Kind, obj: Obj, options: DeleteOptions) -> None:
        if self.store.current(kind, obj) is not None:
            delete(self.registry, kind, namespace_of(obj), name_of(obj), options)

    def _finalize(self, kind: Kind, obj: Obj, dependents: list[tuple[Kind, Obj]]) -> None:
        finalizers = list(obj["metadata"].get("finalizers") or ())
        live = [(k, now) for k, o in dependents if (now := self.store.current(k, o)) is not None]
        if ORPHAN in finalizers:
            for dependent_kind, dependent in live:
                self._forget(dependent_kind, dependent, {uid_of(obj)})
            finalizers.remove(ORPHAN)
            self.registry.set_metadata(kind, obj, finalizers=finalizers)
        elif FOREGROUND in finalizers:
            blocking = [(k, o) for k, o in live if _blocks(o, obj)]
            for dependent_kind, dependent in live:
                if not is_deleting(dependent):
                    foreground = (dependent_kind, dependent) in blocking
                    self._remove(dependent_kind, dependent, IN_FOREGROUND if foreground else BACKGROUND)
            if not any(self.store.current(k, o) for k, o in blocking):
                finalizers.remove(FOREGROUND)
                self.registry.set_metadata(kind, obj, finalizers=finalizers)

    def _forget(self, kind: Kind, obj: Obj, uids: set[str]) -> None:
        now = self.store.current(kind, obj)
        if now is not None:
            kept = [one for one in now["metadata"].get("ownerReferences") or () if one["uid"] not in uids]
            self.registry.set_metadata(kind, now, ownerReferences=kept or None)

    def _owned(self, kind: Kind, obj: Obj, by_uid: dict[str, tuple[Kind, Obj]]) -> None:
        """Gone when every owner is gone; an owner of an unknown kind is taken to exist."""
        alive, dead = 0, set()
        for reference in obj["metadata"]["ownerReferences"]:
            if (reference["apiVersion"], reference["kind"]) not in BY_NAME:
                alive += 1
                continue
            owner_kind, owner = by_uid.get(reference["uid"], (None, None))
            there = owner_kind is not None and owner is not None and self.store.current(owner_kind, owner)
            same_place = there and (namespace_of(owner or {"metadata": {}}) in (None, namespace_of(obj)))
            if same_place and name_of(owner or {}) == reference["name"]:
                alive += 1
            else:
                dead.add(reference["uid"])
        if not alive:
            if not is_deleting(obj):
                self._remove(kind, obj, BACKGROUND)
        elif dead:
            self._forget(kind, obj, dead)

    def _empty(self, namespace: str, obj: Obj) -> None:
        inside = [(kind, one) for kind, one in self.store.everything() if namespace_of(one) == namespace]
        for kind, one in inside:
            if kind is EVENT:
                self.store.drop(kind, one)
            elif not is_deleting(one):
                self._remove(kind, one, BACKGROUND)
        if not any(namespace_of(one) == namespace for _, one in self.store.everything()):
            self.store.drop(NAMESPACE, obj)


def _blocks(dependent: Obj, owner: Obj) -> bool:
    return any(
        one["uid"] == uid_of(owner) and one.get("blockOwnerDeletion")
        for one in dependent["metadata"].get("ownerReferences") or ()
    )
