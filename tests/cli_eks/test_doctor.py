"""``doctor --cluster``: every line says what is there, and a missing right is named with what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from accelbench_assets.cli.doctor_cluster import RIGHTS
from accelbench_assets.launch.kube.client import Cluster
from tests.cli_eks.conftest import Shown
from tests.launch.kube.harness import KubeLocal

Call = Callable[..., Shown]


def lines(shown: Shown) -> dict[str, dict[str, Any]]:
    document = json.loads(shown.out)
    return {row["check"]: row for row in document["checks"] if row["path"] == "cluster"}


def test_a_cluster_that_is_ready(cluster: Cluster, call: Call) -> None:
    found = lines(call("--lake", "s3://bucket/lake", "doctor", "--cluster", "--json"))
    assert found["cluster"]["state"] == "ok"
    assert found["cluster"]["found"].startswith("Kubernetes v1.36")
    assert cluster.namespace_uid() in found["namespace accelbench-bench"]["found"]
    assert {found[f"right: {resource}"]["state"] for resource, _, _ in RIGHTS} == {"ok"}
    assert found["service account accelbench-server"]["state"] == "ok"
    assert found["service account accelbench-loadgen"]["state"] == "ok"
    assert found["quota"]["state"] == "ok"
    assert found["lake on S3"]["state"] == "ok"
    assert "caps: 25 USD a run" in found["budget"]["found"]


def test_a_right_that_is_missing_is_named(cluster: Cluster, kube: KubeLocal, call: Call) -> None:
    kube.set_faults([{"match": {"verb": "create", "resource": "jobs"}, "do": "deny"}])
    shown = call("doctor", "--cluster", "--json")
    found = lines(shown)
    assert shown.code == 1
    assert (found["right: jobs"]["state"], found["right: jobs"]["found"]) == (
        "missing",
        "not allowed: create",
    )
    assert "Role" in found["right: jobs"]["todo"]
    assert found["right: pods"]["state"] == "ok"


def test_what_is_not_there_is_said(cluster: Cluster, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELBENCH_KUBE__SERVER_SERVICE_ACCOUNT", "nobody")
    found = lines(call("doctor", "--cluster", "--json"))
    assert found["service account nobody"]["state"] == "missing"
    assert found["lake on S3"]["state"] == "missing"
    monkeypatch.setenv("ACCELBENCH_KUBE__NAMESPACE", "elsewhere")
    found = lines(call("doctor", "--cluster", "--json"))
    assert found["namespace elsewhere"]["state"] == "missing"


def test_nothing_is_asked_unless_wanted(cluster: Cluster, kube: KubeLocal, call: Call) -> None:
    kube.forget_requests()
    assert "cluster" not in lines(call("doctor", "--json"))
    assert kube.requests() == []


def test_no_cluster_is_one_line(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(home / "nothing"))
    monkeypatch.setenv("ACCELBENCH_LAUNCHER", "eks")
    monkeypatch.setenv("ACCELBENCH_DATABASE_URL", "postgresql://me:hunter22@127.0.0.1:9/x")
    shown = call("doctor", "--json")
    found = lines(shown)
    assert shown.code == 1
    assert found["cluster"]["state"] == "missing"
    assert found["budget"]["state"] == "missing"
    assert "hunter22" not in shown.out + shown.err
    assert not [name for name in found if name.startswith("right")]


def test_the_role_of_infra_grants_what_is_asked_for() -> None:
    text = (Path(__file__).resolve().parents[2] / "infra" / "k8s" / "20-rbac.yaml").read_text(
        encoding="utf-8"
    )
    names = ("accelbench-orchestrator", "accelbench-node-reader")
    granted = {
        (verb, resource, group)
        for one in yaml.safe_load_all(text)
        if one["kind"] in ("Role", "ClusterRole") and one["metadata"]["name"] in names
        for rule in one["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {(verb, resource, group) for resource, group, verbs in RIGHTS for verb in verbs}
    assert asked <= granted
