"""What the server says of itself.

Belongs here: version, health, lists of groups and resources, access reviews. Does not belong here: objects.
"""

from __future__ import annotations

from typing import Any

from tests.launch.kube.faults import Faults
from tests.launch.kube.kinds import GROUPS, KINDS
from tests.launch.kube.moments import stamp

GIT_VERSION = "v1.36.2-accelbench-emulated"
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def public(path: str) -> Any | None:
    """Pages that need no token."""
    if path.rstrip("/") in ("/healthz", "/readyz", "/livez"):
        return "ok"
    if path.rstrip("/") != "/version":
        return None
    fixed = {"gitCommit": "0", "gitTreeState": "clean", "goVersion": "none", "compiler": "none"}
    version = {"major": "1", "minor": "36", "gitVersion": GIT_VERSION, "buildDate": stamp()}
    return {**version, **fixed, "platform": "linux/amd64"}


def page(path: str) -> Any | None:
    """Lists of groups and resources."""
    path = path.rstrip("/")
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    groups = [
        {"name": name, "versions": [version], "preferredVersion": version}
        for name in [*GROUPS, "authorization.k8s.io"]
        for version in [{"groupVersion": f"{name}/v1", "version": "v1"}]
    ]
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    for group in groups:
        if path == f"/apis/{group['name']}":
            return {"kind": "APIGroup", "apiVersion": "v1", **group}
    for name in ["", *GROUPS]:
        if path == (f"/apis/{name}/v1" if name else "/api/v1"):
            return _resources(name)
    return None


def _resources(group: str) -> dict[str, Any]:
    rows = [
        {
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": _VERBS,
        }
        for kind in KINDS
        if kind.group == group
    ]
    version = f"{group}/v1" if group else "v1"
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows}


def review(body: Any, faults: Faults) -> dict[str, Any]:
    """A SelfSubjectAccessReview: everything is allowed but what the fault plan denies."""
    spec = (body or {}).get("spec") or {}
    asked = spec.get("resourceAttributes") or {}
    resource = asked.get("resource", "")
    verb = {"pods/log": "log", "pods/proxy": "proxy", "pods/eviction": "evict"}.get(
        f"{resource}/{asked.get('subresource')}", asked.get("verb", "")
    )
    refused = faults.refuses(verb, resource)
    return {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": {"allowed": not refused, **({"reason": "refused by the fault plan"} if refused else {})},
    }
