"""The emulated cluster answers the official client as a real one does: objects, refusals, watches, owners."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.rest import ApiException

from tests.launch.kube.clients import NAMESPACE, Clients, deployment, job, message_of, pod
from tests.launch.kube.harness import KubeLocal
from tests.support.waiting import until


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    images = {"busybox": ["/bin/sh"]}
    with KubeLocal(tmp_path_factory.mktemp("kube"), images=images) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def k8s(kube: KubeLocal) -> Clients:
    return Clients(kube.kubeconfig)


META = ("labels", "ownerReferences", "resourceVersion")


def config_map(name: str, **more: Any) -> dict[str, Any]:
    meta = {key: more.pop(key) for key in META if key in more}
    return {"metadata": {"name": name, **meta}, **more}


def refused(call: Any, *arguments: Any, **options: Any) -> tuple[int, str, str]:
    with pytest.raises(ApiException) as caught:
        call(*arguments, **options)
    return caught.value.status, json.loads(caught.value.body).get("reason", ""), message_of(caught.value)


def owner(obj: Any, kind: str = "ConfigMap", version: str = "v1") -> list[dict[str, Any]]:
    reference = {"apiVersion": version, "kind": kind, "name": obj.metadata.name, "uid": obj.metadata.uid}
    return [{**reference, "controller": False, "blockOwnerDeletion": False}]


def test_says_that_it_is_emulated_and_what_time_it_is(k8s: Clients) -> None:
    assert client.VersionApi(k8s.api).get_code().git_version == "v1.36.2-accelbench-emulated"
    _, status, headers = k8s.core.list_node_with_http_info()
    assert status == 200
    said = datetime.strptime(headers["Date"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - said).total_seconds()) < 5


def test_nodes_and_namespace_are_there(k8s: Clients) -> None:
    nodes = {node.metadata.name: node for node in k8s.core.list_node().items}
    assert sorted(nodes) == ["cpu-1", "gpu-1", "gpu-2"]
    assert nodes["gpu-1"].metadata.labels["node.kubernetes.io/instance-type"] == "g6e.xlarge"
    assert nodes["gpu-1"].status.allocatable["nvidia.com/gpu"] == "1"
    assert nodes["gpu-1"].spec.taints[0].key == "nvidia.com/gpu"
    accounts = k8s.core.list_namespaced_service_account(NAMESPACE).items
    assert {one.metadata.name for one in accounts} == {"default", "accelbench-server", "accelbench-loadgen"}


def test_credentials_are_asked_for(kube: KubeLocal, tmp_path: Path) -> None:
    stale = tmp_path / "kubeconfig"
    stale.write_text(kube.kubeconfig.read_text().replace(kube.token, "stale"))
    wrong = Clients(stale)
    assert refused(wrong.core.list_namespaced_pod, NAMESPACE) == (401, "Unauthorized", "Unauthorized")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{kube.url}/api/v1/nodes", timeout=60)
    assert caught.value.code == 403


def test_creates_once_and_refuses_what_a_real_server_refuses(k8s: Clients) -> None:
    create = k8s.core.create_namespaced_config_map
    made = create(NAMESPACE, config_map("twice", data={"a": "1"}))
    assert made.metadata.uid
    assert made.metadata.creation_timestamp
    assert refused(create, NAMESPACE, config_map("twice"))[1:] == (
        "AlreadyExists",
        'configmaps "twice" already exists',
    )
    assert refused(create, "nowhere", config_map("x")) == (404, "NotFound", 'namespaces "nowhere" not found')
    assert refused(k8s.core.read_namespaced_config_map, "no", NAMESPACE)[2] == 'configmaps "no" not found'
    assert refused(create, NAMESPACE, config_map("A_b"))[0] == 422
    status, _, text = refused(create, NAMESPACE, config_map("numbers", data={"a": 1}))
    assert (status, "cannot unmarshal number" in text) == (400, True)
    status, _, text = refused(create, NAMESPACE, config_map("set", resourceVersion="1"))
    assert (status, text) == (500, "resourceVersion should not be set on objects to be created")
    assert refused(k8s.core.create_namespaced_secret, NAMESPACE, config_map("s", data={"k": "%"}))[0] == 400
    assert k8s.core.list_namespaced_config_map("nowhere").items == []


def test_what_the_client_may_not_set_is_replaced(k8s: Clients) -> None:
    body = pod("dropped", "sleep 60")
    body["metadata"]["uid"] = "mine"
    body["status"] = {"phase": "Succeeded"}
    made = k8s.core.create_namespaced_pod(NAMESPACE, body)
    assert made.metadata.uid != "mine"
    assert made.status.phase == "Pending"
    k8s.core.delete_namespaced_pod("dropped", NAMESPACE, grace_period_seconds=0)


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"replicas": "two"}, 400, "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas"),
        ({"replicas": -1}, 422, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        ({"selector": {"matchLabels": {"app": "other"}}}, 422, "`selector` does not match template `labels`"),
        ({"container": {"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}}, 422, '"500m": must be an integer'),
        ({"container": {"resources": {"requests": {"nvidia.com/gpu": "1"}}}}, 422, "Limit must be set for non"),
        ({"container": {"resources": {"limits": {"cpu": "many"}}}}, 400, "quantities must match the regular"),
        ({"container": {"env": [{"name": "A", "value": 1}]}}, 400, "EnvVar.spec.template.spec.containers.env.value"),
        ({"container": {"volumeMounts": [{"name": "no", "mountPath": "/x"}]}}, 422, 'Not found: "no"'),
        ({"pod": {"restartPolicy": "Never"}}, 422, 'Unsupported value: "Never": supported values: "Always"'),
        ({"pod": {"containers": []}}, 422, "spec.template.spec.containers: Required value"),
    ],
)  # fmt: skip
def test_a_wrong_deployment_is_refused(k8s: Clients, change: dict[str, Any], status: int, text: str) -> None:
    code, _, message = refused(
        k8s.apps.create_namespaced_deployment, NAMESPACE, deployment("wrong", **change)
    )
    assert code == status
    assert text in message


def test_unknown_fields_are_refused_when_that_is_asked_for(k8s: Clients) -> None:
    body = deployment("strict", 0, pod={"contaners": []})
    body |= {"apiVersion": "apps/v1", "kind": "Deployment"}
    status, _, text = refused(
        k8s.apps.create_namespaced_deployment, NAMESPACE, body, field_validation="Strict"
    )
    assert (status, 'strict decoding error: unknown field "spec.template.spec.contaners"' in text) == (
        400,
        True,
    )
    del body["spec"]["template"]["spec"]["contaners"]
    k8s.apps.create_namespaced_deployment(NAMESPACE, body, field_validation="Strict")


def test_defaults_are_in_the_answer(k8s: Clients) -> None:
    made = k8s.apps.create_namespaced_deployment(NAMESPACE, deployment("filled", 0))
    server = made.spec.template.spec.containers[0]
    assert server.resources.requests == {"nvidia.com/gpu": "1"}
    assert server.image_pull_policy == "IfNotPresent"
    assert made.spec.progress_deadline_seconds == 600
    service = {
        "metadata": {"name": "filled"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "filled"}},
    }
    assert k8s.core.create_namespaced_service(NAMESPACE, service).spec.cluster_ip.startswith("127.2.")
    assert refused(k8s.batch.create_namespaced_job, NAMESPACE, job("j" * 70))[0] == 422
    status, _, text = refused(
        k8s.batch.create_namespaced_job, NAMESPACE, job("always", template={"restartPolicy": "Always"})
    )
    assert (status, 'valid values: "OnFailure", "Never"' in text) == (422, True)


def test_updates_are_locked_and_fixed_fields_stay(k8s: Clients) -> None:
    k8s.core.create_namespaced_config_map(NAMESPACE, config_map("locked", data={"a": "1"}))
    read = k8s.core.read_namespaced_config_map("locked", NAMESPACE)
    k8s.core.patch_namespaced_config_map("locked", NAMESPACE, {"data": {"b": "2"}})
    read.data = {"a": "9"}
    status, reason, text = refused(k8s.core.replace_namespaced_config_map, "locked", NAMESPACE, read)
    assert (status, reason) == (409, "Conflict")
    assert text.endswith("please apply your changes to the latest version and try again")
    now = k8s.core.read_namespaced_config_map("locked", NAMESPACE)
    assert now.data == {"a": "1", "b": "2"}
    same = k8s.core.patch_namespaced_config_map("locked", NAMESPACE, {"data": {"b": "2"}})
    assert same.metadata.resource_version == now.metadata.resource_version
    k8s.core.patch_namespaced_config_map("locked", NAMESPACE, {"immutable": True})
    assert refused(k8s.core.patch_namespaced_config_map, "locked", NAMESPACE, {"data": {"a": "3"}})[0] == 422
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="other"))
    assert refused(k8s.core.delete_namespaced_config_map, "locked", NAMESPACE, body=wrong)[0] == 409
    assert refused(k8s.core.patch_namespaced_config_map, "absent", NAMESPACE, {})[0] == 404


def test_a_lease_takes_microseconds_only(k8s: Clients) -> None:
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 180, "renewTime": "2026-11-21T10:00:00.000001Z"}
    made = k8s.leases.create_namespaced_lease(NAMESPACE, {"metadata": {"name": "l"}, "spec": spec})
    assert made.spec.renew_time.microsecond == 1
    status, _, text = refused(
        k8s.leases.patch_namespaced_lease, "l", NAMESPACE, {"spec": {"renewTime": "2026-11-21T10:00:00Z"}}
    )
    assert (status, "parsing time" in text) == (400, True)


def test_lists_select_and_come_in_pages_without_kinds(k8s: Clients) -> None:
    for number in range(3):
        labels = {"page": "yes", "n": str(number)}
        k8s.core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{number}", labels=labels))
    chosen = k8s.core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes,n in (0,2)").items
    assert [one.metadata.name for one in chosen] == ["page-0", "page-2"]
    raw = k8s.core.list_namespaced_config_map(
        NAMESPACE, label_selector="page", limit=2, _preload_content=False
    )
    first = json.loads(raw.data)
    assert "kind" not in first["items"][0]
    assert first["metadata"]["remainingItemCount"] == 1
    rest = k8s.core.list_namespaced_config_map(
        NAMESPACE, label_selector="page", limit=2, _continue=first["metadata"]["continue"]
    )
    assert [one.metadata.name for one in rest.items] == ["page-2"]
    assert refused(k8s.core.list_namespaced_config_map, NAMESPACE, label_selector="a b")[0] == 400
    assert refused(k8s.core.list_namespaced_pod, NAMESPACE, field_selector="spec.x=1")[0] == 400


def test_a_watch_tells_changes_and_ends(kube: KubeLocal, k8s: Clients) -> None:
    listed = k8s.core.list_namespaced_config_map(NAMESPACE)
    version = listed.metadata.resource_version

    def change() -> None:
        labels = {"watched": "yes"}
        k8s.core.create_namespaced_config_map(NAMESPACE, config_map("seen", labels=labels))
        k8s.core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"a": "1"}})
        k8s.core.patch_namespaced_config_map("seen", NAMESPACE, {"metadata": {"labels": {"watched": None}}})

    threading.Timer(0.1, change).start()
    told = [
        (one["type"], one["object"].metadata.name)
        for one in watch.Watch().stream(
            k8s.core.list_namespaced_config_map,
            NAMESPACE,
            label_selector="watched=yes",
            resource_version=version,
            timeout_seconds=1,
        )
    ]
    assert told == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")]
    kube.expire_watches()
    with pytest.raises(ApiException) as caught:
        list(
            watch.Watch().stream(
                k8s.core.list_namespaced_config_map, NAMESPACE, resource_version="1", timeout_seconds=1
            )
        )
    assert caught.value.status == 410


def test_dependents_go_with_their_owner_and_with_one_that_never_was(k8s: Clients) -> None:
    anchor = k8s.core.create_namespaced_config_map(NAMESPACE, config_map("anchor"))
    k8s.core.create_namespaced_config_map(NAMESPACE, config_map("child", ownerReferences=owner(anchor)))
    body = job("owned", "sleep 60")
    body["metadata"]["ownerReferences"] = owner(anchor)
    k8s.batch.create_namespaced_job(NAMESPACE, body)
    until(lambda: k8s.pods("job-name=owned") and k8s.pod("job-name=owned").status.phase == "Running")
    answer = k8s.core.delete_namespaced_config_map("anchor", NAMESPACE, propagation_policy="Background")
    assert answer.status == "Success"
    until(lambda: not k8s.pods("job-name=owned"))
    assert refused(k8s.core.read_namespaced_config_map, "child", NAMESPACE)[0] == 404
    assert refused(k8s.batch.read_namespaced_job, "owned", NAMESPACE)[0] == 404

    late = config_map("late", ownerReferences=owner(anchor))
    k8s.core.create_namespaced_config_map(NAMESPACE, late)
    until(
        lambda: "late" not in [m.metadata.name for m in k8s.core.list_namespaced_config_map(NAMESPACE).items]
    )


def test_foreground_waits_for_the_pods(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job(NAMESPACE, job("front", "trap '' TERM; sleep 60 & wait; sleep 60"))
    until(lambda: k8s.pods("job-name=front") and k8s.pod("job-name=front").status.phase == "Running")
    k8s.batch.delete_namespaced_job("front", NAMESPACE, propagation_policy="Foreground")
    marked = k8s.batch.read_namespaced_job("front", NAMESPACE)
    assert marked.metadata.finalizers == ["foregroundDeletion"]
    assert refused(k8s.batch.create_namespaced_job, NAMESPACE, job("front"))[2].startswith(
        "object is being deleted"
    )

    def is_gone() -> bool:
        left = [one.metadata.name for one in k8s.batch.list_namespaced_job(NAMESPACE).items]
        assert "front" in left or not k8s.pods("job-name=front")
        return "front" not in left

    until(is_gone)


def test_a_job_deleted_without_policy_leaves_its_pods_running(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job(NAMESPACE, job("orphaned", "sleep 60"))
    until(lambda: k8s.pods("job-name=orphaned") and k8s.pod("job-name=orphaned").status.phase == "Running")
    _, _, headers = k8s.batch.delete_namespaced_job_with_http_info("orphaned", NAMESPACE)
    assert "child pods are preserved by default" in headers["Warning"]
    until(lambda: "orphaned" not in [j.metadata.name for j in k8s.batch.list_namespaced_job(NAMESPACE).items])
    left = until(lambda: [p for p in k8s.pods("job-name=orphaned") if not p.metadata.owner_references])
    assert left[0].status.phase == "Running"
    assert left[0].metadata.deletion_timestamp is None
    k8s.core.delete_namespaced_pod(left[0].metadata.name, NAMESPACE, grace_period_seconds=0)
    until(lambda: not k8s.pods("job-name=orphaned"))


def test_a_namespace_ends_with_what_is_in_it(k8s: Clients) -> None:
    k8s.core.create_namespace({"metadata": {"name": "short"}})
    k8s.core.create_namespaced_pod("short", pod("in-it", "sleep 60"))
    until(lambda: k8s.core.read_namespaced_pod("in-it", "short").status.phase == "Running")
    k8s.core.delete_namespace("short")
    status, _, text = refused(k8s.core.create_namespaced_config_map, "short", config_map("late"))
    assert (status, "because it is being terminated" in text) == (403, True)
    until(lambda: "short" not in [one.metadata.name for one in k8s.core.list_namespace().items])


def test_a_quota_holds_for_pods_of_controllers(k8s: Clients) -> None:
    k8s.core.create_namespace({"metadata": {"name": "small"}})
    hard = {"requests.nvidia.com/gpu": "1", "count/jobs.batch": "1"}
    k8s.core.create_namespaced_resource_quota("small", {"metadata": {"name": "q"}, "spec": {"hard": hard}})
    k8s.apps.create_namespaced_deployment("small", deployment("d", 2))
    seen = until(
        lambda: [
            condition
            for condition in k8s.apps.read_namespaced_deployment("d", "small").status.conditions or ()
            if condition.type == "ReplicaFailure"
        ]
    )
    assert (
        "exceeded quota: q, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1"
        in seen[0].message
    )
    assert len(k8s.core.list_namespaced_pod("small").items) == 1
    k8s.batch.create_namespaced_job("small", job("one", "sleep 9"))
    status, _, text = refused(k8s.batch.create_namespaced_job, "small", job("two"))
    assert (status, "used: count/jobs.batch=1, limited: count/jobs.batch=1" in text) == (403, True)
    k8s.core.delete_namespace("small")


def test_the_record_of_calls_names_them(kube: KubeLocal) -> None:
    mine = Clients(kube.kubeconfig)
    mine.api.user_agent = "the-record-test"
    mine.core.create_namespaced_config_map(NAMESPACE, config_map("recorded"))
    with pytest.raises(ApiException):
        mine.core.read_namespaced_config_map("unrecorded", NAMESPACE)
    calls = [one for one in kube.requests() if one["user_agent"] == "the-record-test"]
    seen = [(one["verb"], one["resource"], one["name"], one["status"]) for one in calls]
    assert seen == [("create", "configmaps", "", 201), ("get", "configmaps", "unrecorded", 404)]
