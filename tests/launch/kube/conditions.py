"""Lists of conditions, and small questions about pods.

Belongs here: setting a condition, what the conditions of a pod say. Does not belong here: who sets which.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.launch.kube.kinds import POD, Obj, controller_of, is_deleting
from tests.launch.kube.moments import now, parse, stamp
from tests.launch.kube.quota import FINISHED
from tests.launch.kube.store import Store


def condition(obj: Obj, type_: str) -> Obj | None:
    for one in (obj.get("status") or {}).get("conditions") or ():
        if one["type"] == type_:
            return dict(one)
    return None


def is_true(obj: Obj, type_: str) -> bool:
    found = condition(obj, type_)
    return found is not None and found["status"] == "True"


def with_condition(
    conditions: Iterable[Obj], type_: str, status: bool | str, reason: str = "", message: str = "", *,
    extra: Obj | None = None,
) -> list[Obj]:  # fmt: skip
    """A new list; the transition time moves only when the status does."""
    text = status if isinstance(status, str) else str(bool(status))
    old = next((one for one in conditions if one["type"] == type_), None)
    moved = old["lastTransitionTime"] if old and old["status"] == text else stamp()
    new: Obj = {"type": type_, "status": text, "lastTransitionTime": moved, **(extra or {})}
    if reason:
        new["reason"] = reason
    if message:
        new["message"] = message
    if old is None:
        return [*conditions, new]
    return [new if one["type"] == type_ else one for one in conditions]


def phase(pod: Obj) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def is_finished(pod: Obj) -> bool:
    return phase(pod) in FINISHED


def is_ready(pod: Obj) -> bool:
    return is_true(pod, "Ready")


def is_active(pod: Obj) -> bool:
    """Neither finished nor on its way out."""
    return not is_finished(pod) and not is_deleting(pod)


def seconds_since(text: str) -> float:
    return (now() - parse(text)).total_seconds()


def pods_by_owner(store: Store) -> dict[str, list[Obj]]:
    """Pods by the uid of their controller."""
    owned: dict[str, list[Obj]] = {}
    for pod in store.all(POD):
        owner = controller_of(pod)
        if owner is not None:
            owned.setdefault(owner["uid"], []).append(pod)
    return owned
