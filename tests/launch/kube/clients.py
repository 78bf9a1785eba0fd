"""The official client against the emulated cluster, and short manifests, for the emulator's own tests.

Belongs here: clients, manifests with the fewest fields. Does not belong here: what the launcher creates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kubernetes import client, config

from tests.launch.kube.harness import KubeLocal
from tests.support.waiting import until

NAMESPACE = "accelbench-bench"


class Clients:
    """One configuration, the API groups of the launcher."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        settings.retries = False
        self.api = client.ApiClient(settings)
        self.core = client.CoreV1Api(self.api)
        self.apps = client.AppsV1Api(self.api)
        self.batch = client.BatchV1Api(self.api)
        self.leases = client.CoordinationV1Api(self.api)

    def log(self, pod: str, **options: Any) -> str:
        """The true bytes; the client's own text of a log is the ``repr`` of bytes."""
        answer = self.core.read_namespaced_pod_log(pod, NAMESPACE, _preload_content=False, **options)
        return str(answer.data.decode())

    def pods(self, selector: str) -> list[Any]:
        return list(self.core.list_namespaced_pod(NAMESPACE, label_selector=selector).items)

    def pod(self, selector: str) -> Any:
        """The only pod there is."""
        (found,) = self.pods(selector)
        return found

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """Type, reason and message of the events about the object *name*."""
        listed = self.core.list_namespaced_event(NAMESPACE, field_selector=f"involvedObject.name={name}")
        return [(one.type, one.reason, one.message) for one in listed.items]


def clear(kube: KubeLocal) -> None:
    """No faults, no Deployments, Jobs or pods in the benchmarks' namespace."""
    kube.set_faults([])
    clients = Clients(kube.kubeconfig)
    clients.apps.delete_collection_namespaced_deployment(NAMESPACE)
    clients.batch.delete_collection_namespaced_job(NAMESPACE, propagation_policy="Background")
    clients.core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)
    until(lambda: not kube.objects("", "Deployment", "ReplicaSet", "Job", "Pod"))


def message_of(error: Any) -> str:
    """The text of the ``Status`` in an ``ApiException``."""
    return str(json.loads(error.body)["message"])


def container(script: str = "exit 0", **more: Any) -> dict[str, Any]:
    return {"name": "c", "image": "busybox:1", "command": ["/bin/sh", "-c", script], **more}


def pod(name: str, script: str = "exit 0", *, restart: str = "Never", **more: Any) -> dict[str, Any]:
    extra = more.pop("container", {})
    spec = {"restartPolicy": restart, "terminationGracePeriodSeconds": 1, **more}
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {**spec, "containers": [container(script, **extra)]},
    }


def job(name: str, script: str = "exit 0", **spec: Any) -> dict[str, Any]:
    template = spec.pop("template", {})
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container(script)]}
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"backoffLimit": 0, **spec, "template": {"spec": {**body, **template}}},
    }


def deployment(name: str, replicas: int = 1, **more: Any) -> dict[str, Any]:
    """The ground-truth server on port 8000, one GPU each, ready when it answers ``/health``."""
    labels = {"app": name}
    server = {
        "name": "server",
        "image": "truth:1",
        "args": ["--host", "$(POD_IP)", "--port", "8000"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 2},
        **more.pop("container", {}),
    }
    spec = {
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [server],
        **more.pop("pod", {}),
    }
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
            **more,
        },
    }
