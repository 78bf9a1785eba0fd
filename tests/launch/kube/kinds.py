"""Which kinds of object the API serves.

Belongs here: group, version, plural, scope, the names that messages use. Does not belong here: the kinds' defaults
and checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of discovery."""

    name: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    has_status: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As messages about one object name it: ``jobs.batch``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def full_name(self) -> str:
        """As refusals of a body name it: ``Job.batch``."""
        return f"{self.name}.{self.group}" if self.group else self.name


NAMESPACE = Kind("Namespace", "namespaces", namespaced=False, has_status=True)
NODE = Kind("Node", "nodes", namespaced=False, has_status=True)
POD = Kind("Pod", "pods", has_status=True)
SERVICE = Kind("Service", "services", has_status=True)
CONFIG_MAP = Kind("ConfigMap", "configmaps")
SECRET = Kind("Secret", "secrets")
EVENT = Kind("Event", "events")
SERVICE_ACCOUNT = Kind("ServiceAccount", "serviceaccounts")
CLAIM = Kind("PersistentVolumeClaim", "persistentvolumeclaims", has_status=True)
QUOTA = Kind("ResourceQuota", "resourcequotas", has_status=True)
DEPLOYMENT = Kind("Deployment", "deployments", "apps", has_status=True)
REPLICA_SET = Kind("ReplicaSet", "replicasets", "apps", has_status=True)
JOB = Kind("Job", "jobs", "batch", has_status=True)
CRON_JOB = Kind("CronJob", "cronjobs", "batch", has_status=True)
LEASE = Kind("Lease", "leases", "coordination.k8s.io")
NODE_CLAIM = Kind("NodeClaim", "nodeclaims", "karpenter.sh", namespaced=False, has_status=True)

KINDS = (
    *(NAMESPACE, NODE, POD, SERVICE, CONFIG_MAP, SECRET, EVENT, SERVICE_ACCOUNT, CLAIM, QUOTA),
    *(DEPLOYMENT, REPLICA_SET, JOB, CRON_JOB, LEASE, NODE_CLAIM),
)
BY_PLURAL = {(kind.group, kind.plural): kind for kind in KINDS}
BY_NAME = {(kind.api_version, kind.name): kind for kind in KINDS}
GROUPS = sorted({kind.group for kind in KINDS if kind.group})


def name_of(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Obj) -> str | None:
    namespace: str | None = obj["metadata"].get("namespace")
    return namespace


def uid_of(obj: Obj) -> str:
    return str(obj["metadata"]["uid"])


def is_deleting(obj: Obj) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def controller_of(obj: Obj) -> Obj | None:
    """The owner reference with ``controller: true``."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def owner_reference(kind: Kind, owner: Obj) -> Obj:
    """The reference that a controller puts on what it makes."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }
