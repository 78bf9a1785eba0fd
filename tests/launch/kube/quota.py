"""What a namespace may hold.

Belongs here: ResourceQuota (pods, counts of objects, cpu, memory, devices), the check of service accounts.
Does not belong here: nodes' capacity (``scheduler``).
"""

from __future__ import annotations

from decimal import Decimal

from tests.launch.kube.answers import forbidden
from tests.launch.kube.kinds import CONFIG_MAP, JOB, POD, QUOTA, SECRET, SERVICE, SERVICE_ACCOUNT, Kind, Obj
from tests.launch.kube.quantities import quantity, requests
from tests.launch.kube.store import Store

_SHORT = {CONFIG_MAP: "configmaps", SECRET: "secrets", SERVICE: "services", POD: "pods"}
FINISHED = ("Succeeded", "Failed")


def _cost(kind: Kind, obj: Obj) -> dict[str, Decimal]:
    """What one object counts for, by the names a quota uses."""
    one = Decimal(1)
    cost = {f"count/{kind.resource}": one}
    if kind in _SHORT:
        cost[_SHORT[kind]] = one
    if kind is POD:
        for name, amount in requests(obj).items():
            if name != "pods":
                cost[f"requests.{name}"] = amount
                if name in ("cpu", "memory"):
                    cost[name] = amount
    return cost


def _used(store: Store, namespace: str, kind: Kind) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for obj in store.all(kind, namespace):
        if kind is POD and obj.get("status", {}).get("phase") in FINISHED:
            continue
        for name, amount in _cost(kind, obj).items():
            total[name] = total.get(name, Decimal(0)) + amount
    return total


def check_quota(store: Store, kind: Kind, obj: Obj) -> None:
    """Raises ``ApiError`` 403, as the API does at creation."""
    namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    for quota in store.all(QUOTA, namespace):
        hard = {key: quantity(value) for key, value in (quota["spec"].get("hard") or {}).items()}
        cost = {key: value for key, value in _cost(kind, obj).items() if key in hard}
        if not cost:
            continue
        used = _used(store, namespace, kind)
        over = [key for key in sorted(cost) if used.get(key, Decimal(0)) + cost[key] > hard[key]]
        if over:
            asked = ",".join(f"{key}={cost[key]:f}" for key in over)
            held = ",".join(f"{key}={used.get(key, Decimal(0)):f}" for key in over)
            limit = ",".join(f"{key}={hard[key]:f}" for key in over)
            about = f"exceeded quota: {quota['metadata']['name']}, requested: {asked}, used: {held}, limited: {limit}"
            raise forbidden(kind, name, about)


def check_account(store: Store, pod: Obj) -> None:
    """Raises ``ApiError`` 403 for a pod whose service account does not exist."""
    namespace = pod["metadata"]["namespace"]
    account = pod["spec"]["serviceAccountName"]
    if store.find(SERVICE_ACCOUNT, namespace, account) is None:
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden(POD, pod["metadata"]["name"], why)


def quota_status(store: Store, quota: Obj) -> Obj:
    """``hard`` and ``used`` of one quota."""
    hard = quota["spec"].get("hard") or {}
    used: dict[str, Decimal] = {}
    for kind in (POD, JOB, CONFIG_MAP, SECRET, SERVICE):
        used |= _used(store, quota["metadata"]["namespace"], kind)
    return {"hard": hard, "used": {key: f"{used.get(key, Decimal(0)):f}" for key in hard}}
