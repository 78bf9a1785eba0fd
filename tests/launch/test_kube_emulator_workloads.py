"""Deployments, Services and Jobs of the emulated cluster: what they make of pods, and what they say of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.client.rest import ApiException

from tests.launch.kube import standins
from tests.launch.kube.clients import NAMESPACE, Clients, deployment, job, message_of
from tests.launch.kube.harness import KubeLocal
from tests.support.waiting import until


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    truth = standins.images()[standins.LOADGEN_IMAGE]["argv"]
    images = {
        "busybox": ["/bin/sh"],
        "truth": [*truth, "truth"],
        **standins.images("truth", ["--ttft", "5"]),
    }
    with KubeLocal(tmp_path_factory.mktemp("kube"), images=images, scale=0.02) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def k8s(kube: KubeLocal) -> Clients:
    return Clients(kube.kubeconfig)


@pytest.fixture(autouse=True)
def _no_deployment_stays(k8s: Clients) -> Iterator[None]:
    """There are two GPUs: one test must not take them from the next."""
    yield
    k8s.apps.delete_collection_namespaced_deployment(NAMESPACE)
    until(lambda: not k8s.core.list_namespaced_pod(NAMESPACE, label_selector="pod-template-hash").items)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def test_a_deployment_becomes_ready_behind_its_service(k8s: Clients) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment("web", 2))
    ports = [{"port": 80, "targetPort": "http"}]
    service = {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}
    address = k8s.core.create_namespaced_service(NAMESPACE, service).spec.cluster_ip
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(f"http://{address}/health")
    ready = until(
        lambda: (
            (s := k8s.apps.read_namespaced_deployment("web", NAMESPACE).status).available_replicas == 2 and s
        )
    )
    assert {(c.type, c.status, c.reason) for c in ready.conditions} == {
        ("Available", "True", "MinimumReplicasAvailable"),
        ("Progressing", "True", "NewReplicaSetAvailable"),
    }
    assert ready.unavailable_replicas is None
    assert json.loads(until(lambda: get(f"http://{address}/version")))["engine"] == "accelbench-truth"
    one, two = k8s.pods("app=web")
    assert one.metadata.owner_references[0].kind == "ReplicaSet"
    assert one.status.pod_ip != two.status.pod_ip
    assert {one.spec.node_name, two.spec.node_name} == {"gpu-1", "gpu-2"}
    reasons = [reason for _, reason, _ in k8s.events(one.metadata.name)]
    assert {"Scheduled", "Pulling", "Pulled", "Created", "Started"} <= set(reasons)

    name = f"{one.metadata.name}:8000"
    assert "engine" in k8s.core.connect_get_namespaced_pod_proxy_with_path(name, NAMESPACE, "version")
    chat = {"model": "truth", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
    answer = k8s.api.call_api(
        f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/proxy/v1/chat/completions",
        "POST", header_params={"Content-Type": "application/json"}, body=chat,
        auth_settings=["BearerToken"], _preload_content=False,
    )  # fmt: skip
    assert json.loads(answer.data)["usage"]["completion_tokens"] == 2
    with pytest.raises(ApiException) as caught:
        k8s.core.connect_get_namespaced_pod_proxy_with_path(f"{one.metadata.name}:81", NAMESPACE, "x")
    assert caught.value.status == 503
    assert message_of(caught.value).endswith(":81: connect: connection refused")

    k8s.apps.patch_namespaced_deployment("web", NAMESPACE, {"spec": {"replicas": 3}})
    third = until(lambda: [p for p in k8s.pods("app=web") if p.status.conditions and not p.spec.node_name])
    scheduled = third[0].status.conditions[0]
    assert (scheduled.type, scheduled.status, scheduled.reason) == ("PodScheduled", "False", "Unschedulable")
    assert scheduled.message == (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: "
        "0/3 nodes are available: 1 Preemption is not helpful for scheduling., "
        "2 No preemption victims found for incoming pod."
    )
    assert k8s.log(third[0].metadata.name) == ""
    assert ("Warning", "FailedScheduling", scheduled.message) in k8s.events(third[0].metadata.name)

    k8s.apps.delete_namespaced_deployment("web", NAMESPACE)
    until(lambda: not k8s.pods("app=web"))
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(f"http://{address}/health")


def test_recreate_ends_the_old_pod_before_the_new_one_starts(k8s: Clients) -> None:
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment("again"))
    until(lambda: k8s.apps.read_namespaced_deployment("again", NAMESPACE).status.available_replicas)
    (old,) = k8s.pods("app=again")
    change = {"spec": {"template": {"metadata": {"annotations": {"changed": "yes"}}}}}
    k8s.apps.patch_namespaced_deployment("again", NAMESPACE, change)
    both = []

    def is_new() -> bool:
        pods = k8s.pods("app=again")
        both.append(len(pods))
        return bool(pods) and pods[0].metadata.uid != old.metadata.uid and bool(pods[0].status.pod_ip)

    until(is_new)
    assert max(both) == 1


def test_a_surge_pod_waits_for_ever_when_all_accelerators_are_taken(k8s: Clients) -> None:
    body = deployment("rolling", 2, strategy={"type": "RollingUpdate"}, progressDeadlineSeconds=1)
    k8s.apps.create_namespaced_deployment(NAMESPACE, body)
    until(lambda: k8s.apps.read_namespaced_deployment("rolling", NAMESPACE).status.available_replicas == 2)
    change = {"spec": {"template": {"metadata": {"annotations": {"changed": "yes"}}}}}
    k8s.apps.patch_namespaced_deployment("rolling", NAMESPACE, change)

    def stuck() -> bool:
        found = k8s.apps.read_namespaced_deployment("rolling", NAMESPACE).status.conditions
        return ("Progressing", "False", "ProgressDeadlineExceeded") in [
            (c.type, c.status, c.reason) for c in found
        ]

    until(stuck)
    phases = sorted(one.status.phase for one in k8s.pods("app=rolling"))
    assert phases == ["Pending", "Running", "Running"]
    k8s.apps.patch_namespaced_deployment("rolling", NAMESPACE, {"spec": {"replicas": 1}})
    until(lambda: [p.metadata.annotations for p in k8s.pods("app=rolling")] == [{"changed": "yes"}])


def test_a_crash_loop_without_readiness_probe_counts_as_progress(k8s: Clients) -> None:
    server = {"command": ["/bin/sh", "-c", "sleep 0.1; exit 1"], "image": "busybox:1", "readinessProbe": None}
    body = deployment("crashing", container=server, progressDeadlineSeconds=1)
    k8s.apps.create_namespaced_deployment(NAMESPACE, body)

    def restarts() -> int:
        statuses = [one.status.container_statuses for one in k8s.pods("app=crashing")]
        return statuses[0][0].restart_count if statuses and statuses[0] else 0

    until(lambda: restarts() >= 3)
    conditions = k8s.apps.read_namespaced_deployment("crashing", NAMESPACE).status.conditions
    reasons = {condition.type: condition.reason for condition in conditions}
    assert reasons["Progressing"] == "NewReplicaSetAvailable"


def test_a_vllm_image_is_stood_in_for(k8s: Clients) -> None:
    body = deployment("vllm", container={"image": "vllm/vllm-openai:v0.11.0"})
    server = body["spec"]["template"]["spec"]["containers"][0]
    server["args"] += ["--model", "org/model", "--served-model-name", "m", "--tensor-parallel-size", "1"]
    server["args"] += ["--max-model-len", "512", "--enforce-eager"]
    k8s.apps.create_namespaced_deployment(NAMESPACE, body)
    until(lambda: k8s.apps.read_namespaced_deployment("vllm", NAMESPACE).status.available_replicas)
    (one,) = k8s.pods("app=vllm")
    models = json.loads(get(f"http://{one.status.pod_ip}:8000/v1/models"))["data"]
    assert [(row["id"], row["max_model_len"]) for row in models] == [("m", 512)]
    assert "Loading weights took" in k8s.log(one.metadata.name)
    assert one.status.container_statuses[0].image_id.startswith("docker.io/vllm/vllm-openai@sha256:")


def test_an_indexed_job_runs_each_index_once(k8s: Clients) -> None:
    script = 'echo "$0 $JOB_COMPLETION_INDEX $HOSTNAME"'
    body = job("many", completions=3, parallelism=2, completionMode="Indexed")
    body["spec"]["template"]["spec"]["containers"][0] |= {
        "command": ["/bin/sh", "-c", script, "shard-$(JOB_COMPLETION_INDEX)"]
    }
    k8s.batch.create_namespaced_job(NAMESPACE, body)
    done = until(lambda: (s := k8s.batch.read_namespaced_job("many", NAMESPACE).status).completion_time and s)
    assert [(c.type, c.reason) for c in done.conditions] == [
        ("SuccessCriteriaMet", "CompletionsReached"),
        ("Complete", "CompletionsReached"),
    ]
    assert (done.succeeded, done.completed_indexes, done.active, done.failed) == (3, "0-2", None, None)
    pods = sorted(k8s.pods("batch.kubernetes.io/job-name=many"), key=lambda one: one.metadata.name)
    assert [p.metadata.annotations["batch.kubernetes.io/job-completion-index"] for p in pods] == [
        "0",
        "1",
        "2",
    ]
    assert [k8s.log(p.metadata.name) for p in pods] == [f"shard-{i} {i} many-{i}\n" for i in range(3)]
    assert [p.metadata.finalizers for p in pods] == [None, None, None]
    assert ("Normal", "Completed", "Job completed") in k8s.events("many")


def test_a_failing_job_tries_again_and_then_fails(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job(NAMESPACE, job("fails", "exit 3", backoffLimit=1))
    seen: list[list[str]] = []

    def over() -> Any:
        status = k8s.batch.read_namespaced_job("fails", NAMESPACE).status
        seen.append([condition.type for condition in status.conditions or ()])
        return status if "Failed" in seen[-1] else None

    status = until(over)
    assert seen[-1] == ["FailureTarget", "Failed"]
    assert status.conditions[-1].reason == "BackoffLimitExceeded"
    assert (status.failed, status.succeeded, status.completion_time) == (2, None, None)
    codes = [p.status.container_statuses[0].state.terminated.exit_code for p in k8s.pods("job-name=fails")]
    assert codes == [3, 3]


def test_a_deadline_deletes_the_pod_and_its_log(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job(NAMESPACE, job("late", "echo started; sleep 60", activeDeadlineSeconds=1))
    name = until(lambda: k8s.pods("job-name=late"))[0].metadata.name

    def failures() -> list[Any]:
        found = k8s.batch.read_namespaced_job("late", NAMESPACE).status.conditions or ()
        return [condition for condition in found if condition.type == "Failed"]

    assert until(failures)[0].reason == "DeadlineExceeded"
    with pytest.raises(ApiException) as caught:
        k8s.log(name)
    assert caught.value.status == 404


def test_a_finished_job_goes_after_its_time_to_live(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job(NAMESPACE, job("brief", ttlSecondsAfterFinished=1))
    until(lambda: "brief" in [one.metadata.name for one in k8s.batch.list_namespaced_job(NAMESPACE).items])
    until(
        lambda: "brief" not in [one.metadata.name for one in k8s.batch.list_namespaced_job(NAMESPACE).items]
    )
    assert k8s.pods("job-name=brief") == []
