"""Two runs on a small API: their objects, the lake's part in ending them, and the purse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.sweep import KINDS
from tests.launch.tiny_api import TinyApi

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"
OTHER = "0190f3c4-aaaa-7bbb-8ccc-ba9876543210"
PATHS = {
    "ConfigMap": ("configmaps", "/api/v1/namespaces/ns"),
    "Pod": ("pods", "/api/v1/namespaces/ns"),
    "Service": ("services", "/api/v1/namespaces/ns"),
    "Deployment": ("deployments", "/apis/apps/v1/namespaces/ns"),
    "ReplicaSet": ("replicasets", "/apis/apps/v1/namespaces/ns"),
    "Job": ("jobs", "/apis/batch/v1/namespaces/ns"),
    "Lease": ("leases", "/apis/coordination.k8s.io/v1/namespaces/ns"),
}


def launch(api: TinyApi, run_id: str, *, lease_age_s: float | None = 0.0, age_s: float = 1000.0) -> None:
    """Objects of every kind, as a run has them; *age_s* and *lease_age_s* in seconds before now."""
    now = datetime.now(UTC)
    notes = naming.annotations(run_id, now + timedelta(hours=1), 180.0)
    born = (now - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for kind in KINDS:
        if kind == "Lease" and lease_age_s is None:
            continue
        resource, prefix = PATHS[kind]
        component = {"ConfigMap": "anchor", "Lease": "lease", "Job": "load"}.get(kind, "server")
        metadata = {
            "labels": naming.labels(run_id, "cell", component),
            "annotations": notes,
            "creationTimestamp": born,
        }
        more: dict[str, Any] = {}
        if kind == "Lease":
            more["spec"] = {
                "renewTime": naming.rfc3339(now - timedelta(seconds=lease_age_s or 0)),
                "holderIdentity": "host_1",
            }
        api.put(resource, naming.base_name(run_id), prefix=prefix, metadata=metadata, **more)


def left(api: TinyApi, run_id: str) -> int:
    return sum(naming.base_name(run_id) in path for path in api.objects)


class Book:
    """The lake's part in it: attempts of this cluster, and which were ended how."""

    def __init__(self, *run_ids: str, age_s: float = 1000.0, cluster: str = "uid-of-ns") -> None:
        asked = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        self.open = {r: {"run_id": r, "cluster": cluster, "requested_at": asked} for r in run_ids}
        self.ended: dict[str, tuple[str, str]] = {}
        self.down = False

    def open_attempts(self) -> list[dict[str, Any]]:
        if self.down:
            raise OSError("the lake is down, password=hunter2hunter2")
        return list(self.open.values())

    def end_lost(self, run_id: str, *, code: str, text: str) -> dict[str, Any] | None:
        if self.down:
            raise OSError("the lake is down")
        if self.open.pop(run_id, None) is None:
            return None
        self.ended[run_id] = (code, text)
        return {"run_id": run_id}


class Purse:
    def __init__(self, *, down: bool = False) -> None:
        self.settled: list[str] = []
        self.until_now: list[bool] = []
        self.down = down

    def settle_run(self, run_id: str, usd: Any = None, *, ran_until_now: bool = True) -> bool:
        if self.down:
            raise OSError("no database")
        self.settled.append(run_id)
        self.until_now.append(ran_until_now)
        return True
