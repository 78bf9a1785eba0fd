"""Faults of the emulated cluster strike as planned, and look as they do on a real one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from kubernetes import client, watch
from kubernetes.client.rest import ApiException

from tests.launch.kube.clients import NAMESPACE, Clients, clear, deployment, job, message_of, pod
from tests.launch.kube.harness import KubeLocal
from tests.support.waiting import until

GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
TOLERATES = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    images = {"busybox": ["/bin/sh"], "truth": [sys.executable, "-P", "-m", "loadgen", "truth"]}
    with KubeLocal(tmp_path_factory.mktemp("kube"), images=images, scale=0.02) as cluster:
        yield cluster


@pytest.fixture
def kube(shared: KubeLocal) -> Iterator[KubeLocal]:
    yield shared
    clear(shared)


@pytest.fixture
def k8s(kube: KubeLocal) -> Clients:
    return Clients(kube.kubeconfig)


def outcomes(k8s: Clients, calls: int) -> list[int]:
    """Status codes of so many reads."""
    seen = []
    for _ in range(calls):
        try:
            k8s.core.list_namespaced_config_map(NAMESPACE)
            seen.append(200)
        except ApiException as error:
            seen.append(error.status)
    return seen


def test_a_share_of_calls_fails_and_always_the_same_ones(kube: KubeLocal, k8s: Clients) -> None:
    match = {"verb": "list", "resource": "configmaps"}
    plan = {"seed": 7, "faults": [{"match": match, "share": 0.25, "do": "status", "status": 500}]}
    kube.set_faults(plan)
    first = outcomes(k8s, 60)
    kube.set_faults(plan)
    assert outcomes(k8s, 60) == first
    assert 5 <= first.count(500) <= 25
    kube.set_faults({**plan, "seed": 8})
    assert outcomes(k8s, 60) != first


def test_only_the_call_that_is_meant_is_struck(kube: KubeLocal, k8s: Clients) -> None:
    mine = Clients(kube.kubeconfig)
    mine.api.user_agent = "struck"
    kube.set_faults([{"match": {"user_agent": "struck", "nth": 2}, "do": "status", "status": 429}])
    assert outcomes(k8s, 2) == [200, 200]
    assert outcomes(mine, 3) == [200, 429, 200]
    kube.set_faults([{"match": {"user_agent": "struck", "call": 3, "verb": "list"}, "do": "conflict"}])
    mine.core.list_node()
    assert outcomes(mine, 2) == [200, 409]
    with pytest.raises(RuntimeError, match="is none of"):
        kube.set_faults([{"do": "nonsense"}])


def test_refusals_carry_the_real_texts(kube: KubeLocal, k8s: Clients) -> None:
    kube.set_faults(
        [
            {"match": {"verb": "create", "resource": "jobs"}, "do": "deny"},
            {"match": {"verb": "create", "resource": "deployments"}, "do": "quota"},
            {"match": {"verb": "list", "resource": "pods"}, "do": "status", "status": 429},
        ]
    )
    with pytest.raises(ApiException) as caught:
        k8s.batch.create_namespaced_job(NAMESPACE, job("x"))
    assert caught.value.status == 403
    assert message_of(caught.value) == (
        'jobs.batch is forbidden: User "accelbench-test" cannot create resource "jobs" in API group "batch" '
        'in the namespace "accelbench-bench"'
    )
    with pytest.raises(ApiException) as caught:
        k8s.apps.create_namespaced_deployment(NAMESPACE, deployment("x"))
    assert "exceeded quota: " in message_of(caught.value)
    with pytest.raises(ApiException) as caught:
        k8s.core.list_namespaced_pod(NAMESPACE)
    assert caught.value.headers["Retry-After"] == "1"
    reviews = client.AuthorizationV1Api(k8s.api)
    for verb, allowed in (("create", False), ("delete", True)):
        attributes = {"verb": verb, "resource": "jobs", "group": "batch", "namespace": NAMESPACE}
        asked = reviews.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}})
        assert asked.status.allowed is allowed


def test_calls_are_dropped_before_or_after_they_are_carried_out(kube: KubeLocal, k8s: Clients) -> None:
    for do, there in (("drop", 404), ("drop_after", 200)):
        kube.set_faults([{"match": {"verb": "create", "resource": "configmaps"}, "do": do, "times": 1}])
        with pytest.raises(urllib3.exceptions.HTTPError):
            k8s.core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": do.replace("_", "-")}})
        try:
            k8s.core.read_namespaced_config_map(do.replace("_", "-"), NAMESPACE)
            seen = 200
        except ApiException as error:
            seen = error.status
        assert seen == there


def test_a_frozen_call_comes_late_and_holds_up_no_other(kube: KubeLocal, k8s: Clients) -> None:
    kube.set_faults([{"match": {"verb": "get", "resource": "configmaps"}, "do": "freeze", "seconds": 600}])
    began = time.monotonic()
    with pytest.raises(urllib3.exceptions.HTTPError):
        k8s.core.read_namespaced_config_map("kube-root-ca.crt", NAMESPACE, _request_timeout=0.3)
    assert outcomes(k8s, 2) == [200, 200]
    assert 0.3 <= time.monotonic() - began < 60
    kube.set_faults([{"match": {"verb": "create"}, "do": "freeze_after", "seconds": 600}])
    late = {"metadata": {"name": "late-answer"}}
    with pytest.raises(urllib3.exceptions.HTTPError):
        k8s.core.create_namespaced_config_map(NAMESPACE, late, _request_timeout=0.3)
    until(lambda: any(one["metadata"]["name"] == "late-answer" for one in kube.objects("", "ConfigMap")))


def test_streams_break_off_and_versions_expire(kube: KubeLocal, k8s: Clients) -> None:
    kube.set_faults([{"match": {"verb": "watch", "resource": "pods", "nth": 1}, "do": "cut", "after_s": 0.1}])
    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(watch.Watch().stream(k8s.core.list_namespaced_pod, NAMESPACE, timeout_seconds=120))
    kube.set_faults([{"match": {"verb": "watch"}, "do": "expired"}])
    version = k8s.core.list_namespaced_pod(NAMESPACE).metadata.resource_version
    told = watch.Watch().stream(
        k8s.core.list_namespaced_pod, NAMESPACE, resource_version=version, timeout_seconds=120
    )
    with pytest.raises(ApiException) as caught:
        next(told)
    assert caught.value.status == 410
    kube.set_faults([{"match": {"verb": "log"}, "do": "cut", "after_s": 0.1}])
    k8s.core.create_namespaced_pod(NAMESPACE, pod("long", "echo one; sleep 60"))
    until(lambda: k8s.core.read_namespaced_pod("long", NAMESPACE).status.phase == "Running")
    answer = k8s.core.read_namespaced_pod_log("long", NAMESPACE, follow=True, _preload_content=False)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(answer.stream())


CALLER = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
from tests.launch.kube.clients import Clients, NAMESPACE
k8s = Clients(pathlib.Path(sys.argv[1]))
k8s.api.user_agent = "victim"
for number in range(3):
    k8s.core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": f"{sys.argv[3]}-{number}"}})
"""


@pytest.mark.parametrize(("do", "made"), [("kill_before", 1), ("kill_after", 2)])
def test_the_caller_is_killed_at_its_nth_call(kube: KubeLocal, do: str, made: int) -> None:
    kube.set_faults([{"match": {"user_agent": "victim", "call": 2}, "do": do}])
    name = do.replace("_", "-")
    root = str(Path(__file__).resolve().parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", CALLER, str(kube.kubeconfig), root, name], check=False, timeout=180
    )
    assert ended.returncode == -9
    left = [one["metadata"]["name"] for one in kube.objects("", "ConfigMap")]
    assert [one for one in left if one.startswith(name)] == [f"{name}-{number}" for number in range(made)]


def waiting(k8s: Clients, name: str) -> list[str]:
    statuses = k8s.core.read_namespaced_pod(name, NAMESPACE).status.container_statuses or ()
    return [one.state.waiting.reason for one in statuses if one.state.waiting]


@pytest.mark.parametrize(
    ("do", "text"),
    [
        ("image_pull_not_found", "not found"),
        ("image_pull_denied", "pull access denied, repository does not exist or may require authorization"),
        ("image_pull_network", "network is unreachable"),
    ],
)
def test_an_image_that_is_not_pulled_at_first(kube: KubeLocal, k8s: Clients, do: str, text: str) -> None:
    kube.set_faults([{"pod": "hidden", "do": do, "times": 1}])
    body = pod("puller", container={"image": f"busybox/hidden-{do.replace('_', '-')}:1"})
    k8s.core.create_namespaced_pod(NAMESPACE, body)
    seen: list[str] = []
    stream = watch.Watch()
    for change in stream.stream(
        k8s.core.list_namespaced_pod, NAMESPACE, label_selector="app=puller", timeout_seconds=120
    ):
        status = change["object"].status
        waits = [one.state.waiting.reason for one in status.container_statuses or () if one.state.waiting]
        seen += [reason for reason in waits if reason not in seen]
        if status.phase == "Succeeded":
            stream.stop()
    assert seen == ["ContainerCreating", "ErrImagePull", "ImagePullBackOff"]
    told = k8s.events("puller")
    failures = [message for kind, reason, message in told if (kind, reason) == ("Warning", "Failed")]
    assert any(message.startswith("Failed to pull image") and text in message for message in failures)
    assert "Error: ErrImagePull" in failures
    assert ("Normal", "BackOff") in [(kind, reason) for kind, reason, _ in told]


@pytest.mark.parametrize(
    ("do", "code", "reason", "words"),
    [
        ("oom", 137, "OOMKilled", ""),
        ("crash", 1, "Error", "Engine core initialization failed"),
        ("gated", 1, "Error", "GatedRepoError"),
        ("does_not_fit", 1, "Error", "CUDA out of memory"),
        ("exit", 7, "Error", ""),
    ],
)
def test_a_container_that_ends_badly(
    kube: KubeLocal, k8s: Clients, do: str, code: int, reason: str, words: str
) -> None:
    kube.set_faults([{"pod": "busybox", "do": do, "after_s": 0.1, **({"code": 7} if do == "exit" else {})}])
    k8s.core.create_namespaced_pod(NAMESPACE, pod("bad", "sleep 60"))
    until(lambda: k8s.core.read_namespaced_pod("bad", NAMESPACE).status.phase == "Failed")
    ended = k8s.core.read_namespaced_pod("bad", NAMESPACE).status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (code, reason)
    assert words in k8s.log("bad")


def test_pods_that_wait_or_are_put_out(kube: KubeLocal, k8s: Clients) -> None:
    kube.set_faults(
        [
            {"pod": "stuck", "do": "unschedulable"},
            {"pod": "later", "do": "slow_schedule", "after_s": 0.5},
            {"pod": "keyless", "do": "missing_secret"},
            {"pod": "pushed", "do": "evict", "after_s": 0.1},
            {"pod": "hung", "do": "hang_not_ready"},
            {"pod": "denied", "do": "quota"},
        ]
    )
    began = time.monotonic()
    for name in ("stuck", "later", "keyless", "pushed"):
        k8s.core.create_namespaced_pod(NAMESPACE, pod(name, "sleep 60", container=GPU, tolerations=TOLERATES))
    stuck = until(lambda: k8s.core.read_namespaced_pod("stuck", NAMESPACE).status.conditions)[0]
    assert (stuck.reason, "3 Insufficient nvidia.com/gpu" in stuck.message) == ("Unschedulable", True)
    until(lambda: "CreateContainerConfigError" in waiting(k8s, "keyless"))
    until(lambda: k8s.core.read_namespaced_pod("later", NAMESPACE).spec.node_name)
    assert time.monotonic() - began >= 0.5
    until(lambda: k8s.core.read_namespaced_pod("pushed", NAMESPACE).status.reason == "Evicted")
    evicted = k8s.core.read_namespaced_pod("pushed", NAMESPACE).status
    assert evicted.phase == "Failed"
    assert evicted.message.startswith("The node was low on resource: memory.")
    assert "Evicted" in [reason for _, reason, _ in k8s.events("pushed")]

    for name in ("keyless", "later", "pushed"):
        k8s.core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment("hung"))
    until(lambda: k8s.pods("app=hung") and k8s.pod("app=hung").status.phase == "Running")
    assert k8s.apps.read_namespaced_deployment("hung", NAMESPACE).status.available_replicas is None
    with pytest.raises(ApiException) as caught:
        k8s.core.create_namespaced_pod(NAMESPACE, pod("denied"))
    assert "exceeded quota" in message_of(caught.value)
    k8s.batch.create_namespaced_job(NAMESPACE, job("denied-job"))
    told = until(lambda: [one for one in k8s.events("denied-job") if one[1] == "FailedCreate"])
    assert told[0][2].startswith('Error creating: pods "denied-job-')
    assert k8s.batch.read_namespaced_job("denied-job", NAMESPACE).status.conditions is None
