"""Nodes of the emulated cluster come, fall silent, are drained and go; and the whole leaves no process behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.rest import ApiException

from tests.launch.kube.clients import NAMESPACE, Clients, clear, deployment, message_of, pod
from tests.launch.kube.harness import KubeLocal
from tests.support.waiting import until

GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
TOLERATES = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    images = {"busybox": ["/bin/sh"], "truth": [sys.executable, "-P", "-m", "loadgen", "truth"]}
    with KubeLocal(tmp_path_factory.mktemp("kube"), images=images) as cluster:
        yield cluster


@pytest.fixture
def kube(shared: KubeLocal) -> Iterator[KubeLocal]:
    yield shared
    clear(shared)


@pytest.fixture
def k8s(kube: KubeLocal) -> Clients:
    return Clients(kube.kubeconfig)


def test_a_lost_node_takes_its_pods_with_it(kube: KubeLocal, k8s: Clients) -> None:
    body = deployment("lost")
    forty = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "tolerationSeconds": 40}
    body["spec"]["template"]["spec"]["tolerations"].append({**forty, "operator": "Exists"})
    k8s.apps.create_namespaced_deployment(NAMESPACE, body)
    until(lambda: k8s.apps.read_namespaced_deployment("lost", NAMESPACE).status.available_replicas)
    (victim,) = k8s.pods("app=lost")
    name, node = victim.metadata.name, victim.spec.node_name
    kube.make_node_unready(node, after_s=0.2)
    with pytest.raises(ApiException) as caught:
        k8s.log(name)
    assert caught.value.status == 500
    assert f"https://{node}:10250/containerLogs/" in message_of(caught.value)

    def ready() -> str:
        conditions = k8s.core.read_node(node).status.conditions
        return str(next(one.status for one in conditions if one.type == "Ready"))

    until(lambda: ready() == "Unknown")
    taints = {(one.key, one.effect) for one in k8s.core.read_node(node).spec.taints}
    assert ("node.kubernetes.io/unreachable", "NoExecute") in taints
    seen = k8s.core.read_namespaced_pod(name, NAMESPACE)
    assert seen.status.phase == "Running"
    assert {one.type: one.status for one in seen.status.conditions}["Ready"] == "False"
    assert ("Warning", "NodeNotReady", "Node is not ready") in k8s.events(name)
    marked = until(
        lambda: (p := k8s.core.read_namespaced_pod(name, NAMESPACE)).metadata.deletion_timestamp and p
    )
    assert "TaintManagerEviction" in [reason for _, reason, _ in k8s.events(name)]
    assert "DeletionByTaintManager" in [one.reason for one in marked.status.conditions]
    until(lambda: k8s.apps.read_namespaced_deployment("lost", NAMESPACE).status.available_replicas)
    assert name in [one.metadata.name for one in k8s.pods("app=lost")]  # until the node is back, or gone
    kube.make_node_ready(node)
    until(lambda: name not in [one.metadata.name for one in k8s.pods("app=lost")])


def test_a_node_s_end_ends_its_processes_and_later_its_pods(kube: KubeLocal, k8s: Clients) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment("gone"))
    until(lambda: k8s.apps.read_namespaced_deployment("gone", NAMESPACE).status.available_replicas)
    (victim,) = k8s.pods("app=gone")
    node = k8s.core.read_node(victim.spec.node_name)
    kube.delete_node(node.metadata.name)
    with pytest.raises(ApiException) as caught:
        k8s.core.connect_get_namespaced_pod_proxy_with_path(
            f"{victim.metadata.name}:8000", NAMESPACE, "health"
        )
    assert caught.value.status == 503
    assert k8s.core.read_namespaced_pod(victim.metadata.name, NAMESPACE).status.phase == "Running"
    until(lambda: victim.metadata.name not in [one.metadata.name for one in k8s.pods("app=gone")])
    put_back(kube, node)


def put_back(kube: KubeLocal, node: Any) -> None:
    taint = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}
    new = {"name": node.metadata.name, "labels": node.metadata.labels, "taints": [taint]}
    kube.add_node({**new, "allocatable": {"nvidia.com/gpu": "1"}})


def test_a_drained_node_goes_after_its_pods(kube: KubeLocal, k8s: Clients) -> None:
    k8s.core.create_namespaced_pod(NAMESPACE, pod("moved", "sleep 60", container=GPU, tolerations=TOLERATES))
    until(lambda: k8s.core.read_namespaced_pod("moved", NAMESPACE).status.phase == "Running")
    node = k8s.core.read_node(k8s.core.read_namespaced_pod("moved", NAMESPACE).spec.node_name)
    kube.drain_node(node.metadata.name, "Spot Interruption")
    assert k8s.core.read_namespaced_pod("moved", NAMESPACE).metadata.deletion_timestamp
    assert ("Normal", "Evicted", "Evicted pod: Spot Interruption") in k8s.events("moved")
    until(lambda: node.metadata.name not in [one.metadata.name for one in k8s.core.list_node().items])
    assert k8s.pods("app=moved") == []
    put_back(kube, node)


def test_what_ran_on_a_node_is_lost_even_if_it_comes_back(kube: KubeLocal, k8s: Clients) -> None:
    k8s.core.create_namespaced_pod(NAMESPACE, pod("once", "echo run; sleep 60"))
    k8s.core.create_namespaced_pod(NAMESPACE, pod("ever", "echo run; sleep 60", restart="Always"))
    both = ("once", "ever")
    until(lambda: [k8s.core.read_namespaced_pod(n, NAMESPACE).status.phase for n in both] == ["Running"] * 2)
    until(lambda: [k8s.log(name) for name in both] == ["run\n"] * 2)
    kube.make_node_unready("cpu-1", after_s=0)
    kube.make_node_ready("cpu-1")
    until(lambda: k8s.core.read_namespaced_pod("once", NAMESPACE).status.phase == "Failed")
    ended = k8s.core.read_namespaced_pod("once", NAMESPACE).status.container_statuses[0]
    assert (ended.state.terminated.exit_code, ended.restart_count) == (255, 0)
    assert k8s.log("once") == "run\n"
    again = until(
        lambda: (
            (s := k8s.core.read_namespaced_pod("ever", NAMESPACE).status.container_statuses[0]).state.running
            and s
        )
    )
    assert (again.restart_count, again.last_state.terminated.reason) == (1, "Unknown")


def processes(root: Path) -> list[int]:
    """Those whose environment names *root*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(root).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


ON_DEMAND: dict[str, Any] = {"name": "grown", "labels": {"pool": "gpu"}, "after_s": 0.5}
NODES = [{**ON_DEMAND, "allocatable": {"nvidia.com/gpu": "1"}}]


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "kill the server", "kill the guard"])
def test_no_process_is_left_and_nodes_come_when_needed(tmp_path: Path, how: str) -> None:
    root = tmp_path / "kube"
    with KubeLocal(root, images={"busybox": ["/bin/sh"]}, nodes=NODES) as kube:
        k8s = Clients(kube.kubeconfig)
        assert k8s.core.list_node().items == []
        script = "trap '' TERM; setsid sleep 600 & sleep 601"
        began = time.monotonic()
        body = pod("deep", script, nodeSelector={"pool": "gpu"}, container=GPU)
        k8s.core.create_namespaced_pod(NAMESPACE, body)
        until(lambda: k8s.core.read_namespaced_pod("deep", NAMESPACE).status.phase == "Running")
        assert time.monotonic() - began >= 0.5
        assert "Nominated" in [reason for _, reason, _ in k8s.events("deep")]
        until(lambda: len(processes(root)) >= 5)  # guard, server, shell, two sleeps
        if how == "SIGTERM":
            os.kill(kube.pid, 15)
        elif how != "stdin":
            os.kill(kube.server_pid if how == "kill the server" else kube.pid, 9)
    until(lambda: not processes(root))
