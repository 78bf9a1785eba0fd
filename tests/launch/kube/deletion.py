"""Deleting an object, in the ways a client may ask for.

Belongs here: propagation policies, grace, preconditions, finalizers. Does not belong here: what happens to
dependents afterwards (``collector``), ending processes (``kubelet``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.launch.kube import answers
from tests.launch.kube.conditions import with_condition
from tests.launch.kube.kinds import JOB, NAMESPACE, POD, Kind, Obj, is_deleting, name_of, namespace_of
from tests.launch.kube.moments import after, stamp
from tests.launch.kube.quota import FINISHED
from tests.launch.kube.registry import Registry

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
ORPHAN_WARNING = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them "
    "or set propagationPolicy=Orphan to suppress this warning"
)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """``policy`` is Background, Foreground, Orphan or empty: the kind's own default."""

    policy: str = ""
    grace_s: int | None = None
    uid: str | None = None
    resource_version: str | None = None

    @classmethod
    def read(cls, body: Any, query: Any) -> DeleteOptions:
        """The body wins over the query."""
        body = body if isinstance(body, dict) else {}
        grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        policy = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
        if not policy and (body.get("orphanDependents") or query.get("orphanDependents")) in (True, "true"):
            policy = "Orphan"
        if policy not in ("", "Background", "Foreground", "Orphan"):
            why = f'propagationPolicy: Unsupported value: "{policy}"'
            raise answers.ApiError(422, "Invalid", f'DeleteOptions.meta.k8s.io "" is invalid: {why}')
        wanted = body.get("preconditions") or {}
        return cls(
            policy, None if grace is None else int(grace), wanted.get("uid"), wanted.get("resourceVersion")
        )


@dataclass(frozen=True, slots=True)
class Deleted:
    """The answer's body, and a warning header if there is one."""

    body: Obj
    warning: str | None = None


def delete(
    registry: Registry, kind: Kind, namespace: str | None, name: str, options: DeleteOptions
) -> Deleted:
    """Raises ``ApiError`` 404, or 409 for a precondition."""
    obj = registry.store.get(kind, namespace, name)
    _preconditions(kind, obj, options)
    if kind is POD and (body := _pod(registry, obj, options)) is not None:
        return Deleted(body)
    if kind is NAMESPACE:
        marked = registry.set_metadata(kind, obj, deletionTimestamp=stamp())
        return Deleted(registry.set_status(kind, marked or obj, phase="Terminating") or obj)
    policy = options.policy or ("Orphan" if kind is JOB else "Background")
    warning = ORPHAN_WARNING if kind is JOB and not options.policy else None
    finalizers = list(obj["metadata"].get("finalizers") or ())
    extra = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(policy)
    if extra and extra not in finalizers:
        finalizers.append(extra)
    if finalizers:
        when = obj["metadata"].get("deletionTimestamp") or stamp()
        marked = registry.set_metadata(
            kind, obj, finalizers=finalizers, deletionTimestamp=when, deletionGracePeriodSeconds=0
        )
        return Deleted(marked or obj, warning)
    registry.store.drop(kind, obj)
    if kind is POD:
        return Deleted(obj)
    about = {"name": name_of(obj), "group": kind.group, "kind": kind.plural, "uid": obj["metadata"]["uid"]}
    return Deleted(answers.success(**{key: value for key, value in about.items() if value}), warning)


def evict(registry: Registry, pod: Obj, options: DeleteOptions) -> None:
    """What the eviction API does: a condition that tells why, and a deletion."""
    conditions = with_condition(
        pod["status"].get("conditions") or [], "DisruptionTarget", True, "EvictionByEvictionAPI",
        "Eviction API: evicting",
    )  # fmt: skip
    registry.set_status(POD, pod, conditions=conditions)
    delete(registry, POD, namespace_of(pod), name_of(pod), options)


def _preconditions(kind: Kind, obj: Obj, options: DeleteOptions) -> None:
    uid, version = obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]
    tail = "The object might have been deleted and then recreated"
    if options.uid and options.uid != uid:
        why = f"the UID in the precondition ({options.uid}) does not match the UID in record ({uid}). {tail}"
        raise _refused(kind, obj, why)
    if options.resource_version and options.resource_version != version:
        asked = options.resource_version
        why = (
            f"the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record"
        )
        raise _refused(kind, obj, f"{why} ({version}). The object might have been modified")


def _refused(kind: Kind, obj: Obj, why: str) -> answers.ApiError:
    text = f'Operation cannot be fulfilled on {kind.name} "{name_of(obj)}": {why}'
    return answers.ApiError(409, "Conflict", text, name=name_of(obj), kind=kind.plural)


def _pod(registry: Registry, pod: Obj, options: DeleteOptions) -> Obj | None:
    """The marked pod while it still has to end; ``None`` when it may go at once."""
    spec_grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
    grace = spec_grace if options.grace_s is None else options.grace_s
    finished = pod.get("status", {}).get("phase") in FINISHED
    if not pod["spec"].get("nodeName") or finished:
        grace = 0
    if grace <= 0:
        return None
    if is_deleting(pod) and pod["metadata"].get("deletionGracePeriodSeconds", 0) <= grace:
        return pod
    until = stamp(after(grace))
    return registry.set_metadata(POD, pod, deletionTimestamp=until, deletionGracePeriodSeconds=grace)
