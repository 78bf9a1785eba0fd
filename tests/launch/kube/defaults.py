"""What the server fills in when an object is created.

Belongs here: defaults by kind. Does not belong here: refusals (``checks``), addresses of Services (``services``).
"""

from __future__ import annotations

from typing import Any

from tests.launch.kube.kinds import Kind, Obj
from tests.launch.kube.quantities import is_device

_UNREACHABLE_S = 300


def fill(kind: Kind, obj: Obj) -> Obj:
    """A new object with the defaults of its kind; it has its name and uid already."""
    match kind.name:
        case "Pod":
            return {**obj, "spec": _bound_spec(_pod_spec(obj.get("spec") or {}))}
        case "Deployment":
            return _deployment(obj)
        case "ReplicaSet":
            return {**obj, "spec": {"replicas": 1, **_template(obj["spec"], "Always")}}
        case "Job":
            return _job(obj)
        case "Service":
            spec = obj.get("spec") or {}
            ports = [
                {"protocol": "TCP", "targetPort": port.get("port"), **port}
                for port in spec.get("ports") or ()
            ]
            common = {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}
            return {**obj, "spec": {**common, **spec, "ports": ports}}
        case "Namespace":
            labels = {"kubernetes.io/metadata.name": obj["metadata"]["name"]}
            meta = {**obj["metadata"], "labels": {**(obj["metadata"].get("labels") or {}), **labels}}
            spec = {**(obj.get("spec") or {}), "finalizers": ["kubernetes"]}
            return {**obj, "metadata": meta, "spec": spec}
    return obj


def first_status(kind: Kind) -> Obj | None:
    """The status an object is born with; what the client sent is dropped."""
    if kind.name == "Pod":
        return {"phase": "Pending"}
    if kind.name == "Namespace":
        return {"phase": "Active"}
    if kind.name == "PersistentVolumeClaim":
        return {"phase": "Bound"}
    return {} if kind.has_status else None


def _deployment(obj: Obj) -> Obj:
    spec = {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        **_template(obj.get("spec") or {}, "Always"),
    }
    strategy: dict[str, Any] = {"type": "RollingUpdate", **(spec.get("strategy") or {})}
    if strategy["type"] == "RollingUpdate":
        rolling = {"maxUnavailable": "25%", "maxSurge": "25%", **(strategy.get("rollingUpdate") or {})}
        strategy["rollingUpdate"] = rolling
    return {**obj, "spec": {**spec, "strategy": strategy}}


def _job(obj: Obj) -> Obj:
    uid, name = obj["metadata"]["uid"], obj["metadata"]["name"]
    marks = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    spec = _template(obj.get("spec") or {}, "")
    template = dict(spec.get("template") or {})
    meta = dict(template.get("metadata") or {})
    template["metadata"] = {**meta, "labels": {**(meta.get("labels") or {}), **marks}}
    common: Obj = {
        "parallelism": 1,
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "suspend": False,
        "manualSelector": False,
        "podReplacementPolicy": "TerminatingOrFailed",
        "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
    }
    if spec.get("completions") is None:
        common["completions"] = 1
    filled = {**common, **{k: v for k, v in spec.items() if v is not None}, "template": template}
    labels = obj["metadata"].get("labels") or marks
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}, "spec": filled}


def _template(spec: Obj, restart: str) -> Obj:
    template = spec.get("template")
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        return spec
    pod = _pod_spec(template["spec"], restart)
    return {**spec, "template": {**template, "spec": pod}}


def _pod_spec(spec: Obj, restart: str = "Always") -> Obj:
    """Also used for templates; *restart* empty leaves the policy open."""
    filled = {
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        **({"restartPolicy": restart} if restart else {}),
        **{key: value for key, value in spec.items() if value is not None},
    }
    for field in ("initContainers", "containers"):
        if isinstance(filled.get(field), list):
            filled[field] = [_container(one) for one in filled[field]]
    return filled


def _bound_spec(spec: Obj) -> Obj:
    """What only a pod gets, not a template."""
    tolerations = list(spec.get("tolerations") or ())
    for taint in ("not-ready", "unreachable"):
        key = f"node.kubernetes.io/{taint}"
        if not any(
            one.get("key") in (key, None) and one.get("effect") in ("NoExecute", None) for one in tolerations
        ):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _UNREACHABLE_S}
            )
    account = spec.get("serviceAccountName") or "default"
    return {
        "enableServiceLinks": True,
        "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
        **spec,
        "serviceAccountName": account,
        "serviceAccount": account,
        "tolerations": tolerations,
    }


def _container(container: Obj) -> Obj:
    image = container.get("image") or ""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    latest = "@" not in image and tag in ("", "latest")
    filled = {
        "imagePullPolicy": "Always" if latest else "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "resources": {},
        **container,
    }
    limits = filled["resources"].get("limits") or {}
    asked = dict(filled["resources"].get("requests") or {})
    asked = {**limits, **asked} if limits else asked
    devices = {name: amount for name, amount in asked.items() if is_device(name) and name in limits}
    if asked:
        filled["resources"] = {**filled["resources"], "requests": {**asked, **devices}}
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if filled.get(name):
            common = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
            filled[name] = {**common, **filled[name]}
    return filled
