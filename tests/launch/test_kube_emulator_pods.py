"""Pods of the emulated cluster run as processes and look like containers: states, logs, probes, ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes import watch
from kubernetes.client.rest import ApiException

from tests.launch.kube.clients import NAMESPACE, Clients, container, message_of, pod
from tests.launch.kube.harness import KubeLocal
from tests.support.waiting import until


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    os.environ["LEAKED_BY_THE_TEST_RUNNER"] = "1"
    images = {"busybox": ["/bin/sh"], "slow": {"argv": ["/bin/sh"], "pull_s": 0.5}}
    with KubeLocal(tmp_path_factory.mktemp("kube"), images=images, scale=0.02) as cluster:
        yield cluster
    del os.environ["LEAKED_BY_THE_TEST_RUNNER"]


@pytest.fixture(scope="module")
def k8s(kube: KubeLocal) -> Clients:
    return Clients(kube.kubeconfig)


def finished(k8s: Clients, name: str) -> Any:
    """The pod once it is over."""

    def look() -> Any:
        found = k8s.core.read_namespaced_pod(name, NAMESPACE)
        return found if found.status.phase in ("Succeeded", "Failed") else None

    return until(look)


def run_to_end(k8s: Clients, body: dict[str, Any]) -> Any:
    k8s.core.create_namespaced_pod(NAMESPACE, body)
    return finished(k8s, body["metadata"]["name"])


def test_a_log_is_refused_until_there_is_one_and_then_followed(k8s: Clients) -> None:
    script = "for i in 1 2 3; do echo line $i; sleep 0.1; done"
    k8s.core.create_namespaced_pod(NAMESPACE, pod("talks", script, container={"image": "slow:1"}))
    until(lambda: k8s.core.read_namespaced_pod("talks", NAMESPACE).status.container_statuses)
    with pytest.raises(ApiException) as caught:
        k8s.log("talks", follow=True)
    assert caught.value.status == 400
    assert message_of(caught.value) == 'container "c" in pod "talks" is waiting to start: ContainerCreating'
    until(lambda: k8s.core.read_namespaced_pod("talks", NAMESPACE).status.phase == "Running")
    lines = list(watch.Watch().stream(k8s.core.read_namespaced_pod_log, "talks", NAMESPACE))
    assert lines == ["line 1", "line 2", "line 3"]
    assert k8s.log("talks", tail_lines=1) == "line 3\n"
    assert k8s.log("talks", limit_bytes=4) == "line"
    with pytest.raises(ApiException) as caught:
        k8s.log("talks", container="zz")
    assert message_of(caught.value) == "container zz is not valid for pod talks"
    with pytest.raises(ApiException) as caught:
        k8s.log("talks", previous=True)
    assert caught.value.status == 400


def test_a_stamped_log_can_be_taken_up_where_it_was_left(k8s: Clients) -> None:
    before = datetime.now(UTC)
    run_to_end(k8s, pod("stamped", "echo one; echo two"))
    stamped = k8s.log("stamped", timestamps=True).splitlines()
    stamps = [line.split(" ")[0] for line in stamped]
    assert [line.split(" ", 1)[1] for line in stamped] == ["one", "two"]
    assert stamps[0] < stamps[1]
    assert abs((datetime.fromisoformat(stamps[0][:26] + "+00:00") - before).total_seconds()) < 60
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/stamped/log"
    answer = k8s.api.call_api(
        path, "GET", query_params=[("sinceTime", stamps[1])], auth_settings=["BearerToken"], _preload_content=False
    )  # fmt: skip
    assert answer.data == b"two\n"


def test_environment_and_volumes_are_the_manifest_s_alone(k8s: Clients) -> None:
    k8s.core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "token"}, "stringData": {"t": "hf_x"}})
    data = {"plan.json": '{"a":1}', "KEY": "value"}
    k8s.core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "settings"}, "data": data})
    env = [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "t"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "t", "optional": True}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "JOINED", "value": "$(NODE)/$(ABSENT)/$$(NODE)"},
        {"name": "PLACE", "value": "/etc/plan/plan.json"},
        {"name": "ELSEWHERE", "value": "s3://bucket/etc/plan"},
    ]
    more = {
        "env": env,
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "volumeMounts": [{"name": "v", "mountPath": "/etc/plan"}, {"name": "s", "mountPath": "/scratch"}],
        "command": ["/bin/sh", "-c", "cat $0; echo; touch $1/x; env", "/etc/plan/plan.json", "/scratch"],
    }
    volumes = [{"name": "v", "configMap": {"name": "settings"}}, {"name": "s", "emptyDir": {}}]
    run_to_end(k8s, pod("envied", container=more, volumes=volumes))
    first, *rest = k8s.log("envied").splitlines()
    seen = dict(line.split("=", 1) for line in rest if "=" in line)
    assert first == '{"a":1}'
    assert (seen["TOKEN"], seen["KEY"], seen["LABEL"]) == ("hf_x", "value", "envied")
    assert seen["JOINED"] == f"{seen['NODE']}/$(ABSENT)/$(NODE)"
    assert seen["PLACE"].endswith("/volumes/v/plan.json")
    assert seen["ELSEWHERE"] == "s3://bucket/etc/plan"
    assert "NONE" not in seen
    assert "LEAKED_BY_THE_TEST_RUNNER" not in seen
    assert seen["HOME"] != os.environ.get("HOME")


def test_a_missing_secret_is_waited_for(k8s: Clients) -> None:
    env = [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "comes-later", "key": "t"}}}]
    k8s.core.create_namespaced_pod(NAMESPACE, pod("waits", "echo $T", container={"env": env}))

    def state() -> Any:
        statuses = k8s.core.read_namespaced_pod("waits", NAMESPACE).status.container_statuses
        return statuses[0].state if statuses else None

    waiting = until(
        lambda: (
            (s := state()) and s.waiting and s.waiting.reason == "CreateContainerConfigError" and s.waiting
        )
    )
    assert waiting.message == 'secret "comes-later" not found'
    assert ("Warning", "Failed", 'Error: secret "comes-later" not found') in k8s.events("waits")
    k8s.core.create_namespaced_secret(
        NAMESPACE, {"metadata": {"name": "comes-later"}, "stringData": {"t": "now"}}
    )
    finished(k8s, "waits")
    assert k8s.log("waits") == "now\n"


def test_how_a_container_ended_is_told(k8s: Clients) -> None:
    more = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    ended = run_to_end(k8s, pod("nine", "echo why; exit 9", container=more)).status
    terminated = ended.container_statuses[0].state.terminated
    assert (ended.phase, terminated.exit_code, terminated.reason, terminated.message) == (
        "Failed",
        9,
        "Error",
        "why\n",
    )
    absent = run_to_end(k8s, pod("absent", container={"command": ["/nope"]})).status.container_statuses[0]
    assert (absent.state.terminated.exit_code, absent.state.terminated.reason) == (128, "StartError")
    assert absent.state.terminated.message.endswith('exec: "/nope": stat /nope: no such file or directory')
    ok = run_to_end(k8s, pod("fine")).status
    conditions = {condition.type: (condition.status, condition.reason) for condition in ok.conditions}
    assert conditions["Ready"] == ("False", "PodCompleted")
    init = [{**container("exit 4"), "name": "first"}]
    broken = run_to_end(k8s, pod("init", initContainers=init)).status
    assert broken.init_container_statuses[0].state.terminated.exit_code == 4
    assert broken.container_statuses[0].state.waiting.reason == "PodInitializing"


def test_a_crash_loop_counts_and_pauses(k8s: Clients) -> None:
    k8s.core.create_namespaced_pod(NAMESPACE, pod("loops", "echo run; exit 1", restart="Always"))

    def waiting() -> Any:
        statuses = k8s.core.read_namespaced_pod("loops", NAMESPACE).status.container_statuses or ()
        return [
            one for one in statuses if one.state.waiting and one.state.waiting.reason == "CrashLoopBackOff"
        ]

    (status,) = until(waiting)
    assert status.restart_count >= 1
    assert status.last_state.terminated.exit_code == 1
    assert status.state.waiting.message.startswith("back-off ")
    assert k8s.log("loops") == "run\n"
    assert k8s.log("loops", previous=True) == "run\n"
    assert "BackOff" in [reason for _, reason, _ in k8s.events("loops")]
    k8s.core.delete_namespaced_pod("loops", NAMESPACE)
    until(lambda: not k8s.pods("app=loops"))


def test_probes_gate_readiness_and_restart(k8s: Clients) -> None:
    probe = {"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 2}
    k8s.core.create_namespaced_pod(
        NAMESPACE, pod("sick", "sleep 60", restart="Always", container={"livenessProbe": probe})
    )
    k8s.core.create_namespaced_pod(
        NAMESPACE, pod("unready", "sleep 60", container={"readinessProbe": {**probe, "failureThreshold": 1}})
    )

    def restarted() -> list[Any]:
        statuses = k8s.core.read_namespaced_pod("sick", NAMESPACE).status.container_statuses or ()
        return [one for one in statuses if one.restart_count]

    assert until(restarted)[0].last_state.terminated.exit_code == 137
    assert ("Normal", "Killing", "Container c failed liveness probe, will be restarted") in k8s.events("sick")
    until(lambda: "Unhealthy" in [reason for _, reason, _ in k8s.events("unready")])
    unready = k8s.core.read_namespaced_pod("unready", NAMESPACE)
    assert unready.status.phase == "Running"
    assert {c.type: c.status for c in unready.status.conditions}["Ready"] == "False"
    for name in ("sick", "unready"):
        k8s.core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)


def test_deleting_a_pod_asks_first_and_then_kills(k8s: Clients) -> None:
    script = "trap 'echo asked' TERM; echo up; while true; do sleep 0.05; done"
    k8s.core.create_namespaced_pod(NAMESPACE, pod("stubborn", script, terminationGracePeriodSeconds=1))
    until(lambda: k8s.core.read_namespaced_pod("stubborn", NAMESPACE).status.phase == "Running")
    until(lambda: k8s.log("stubborn") == "up\n")
    heard: list[str] = []
    follower = threading.Thread(
        target=lambda: heard.extend(
            watch.Watch().stream(k8s.core.read_namespaced_pod_log, "stubborn", NAMESPACE)
        )
    )
    follower.start()
    marked = k8s.core.delete_namespaced_pod("stubborn", NAMESPACE)
    assert marked.metadata.deletion_grace_period_seconds == 1
    assert marked.status.phase == "Running"
    until(lambda: not k8s.pods("app=stubborn"))
    follower.join(5)
    assert heard == ["up", "asked"]

    k8s.core.create_namespaced_pod(NAMESPACE, pod("cut", "trap '' TERM; sleep 60"))
    until(lambda: k8s.core.read_namespaced_pod("cut", NAMESPACE).status.phase == "Running")
    k8s.core.delete_namespaced_pod("cut", NAMESPACE, grace_period_seconds=0)
    assert k8s.pods("app=cut") == []


def test_eviction_deletes_with_the_reason(kube: KubeLocal, k8s: Clients) -> None:
    k8s.core.create_namespaced_pod(NAMESPACE, pod("drained", "trap '' TERM; sleep 60"))
    until(lambda: k8s.core.read_namespaced_pod("drained", NAMESPACE).status.phase == "Running")
    kube.evict("drained")
    marked = k8s.core.read_namespaced_pod("drained", NAMESPACE)
    assert marked.metadata.deletion_timestamp
    conditions = {condition.type: condition.reason for condition in marked.status.conditions}
    assert conditions["DisruptionTarget"] == "EvictionByEvictionAPI"
    until(lambda: not k8s.pods("app=drained"))
