"""``infra/k8s``: every object is valid, and fits the manifests, the launcher's calls and the catalog."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from accelbench_assets.cli.main import app
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.kube.client import KINDS
from accelbench_assets.launch.kube.sweep import KINDS as SWEPT
from accelbench_assets.launch.manifests import server_objects
from accelbench_assets.settings import Settings
from accelbench_assets.settings_groups import KubeSettings
from partitions.catalog import load_instances, load_models
from partitions.cell import BenchmarkCell, Deployment
from tests.infra.files import INFRA, ROOT, VALUES, k8s_files, objects, one, rendered

VERSIONS = [f"1.{minor}" for minor in range(30, 37)]
KARPENTER = {"NodePool", "EC2NodeClass"}


def described(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


@pytest.mark.parametrize("manifest", [m for m in objects() if m["kind"] not in KARPENTER], ids=described)
def test_every_supported_version_takes_it(manifest: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_files_apply_in_the_order_of_their_names() -> None:
    seen = {"default"}  # every cluster has it
    for path in k8s_files():
        for manifest in yaml.safe_load_all(rendered(path)):
            namespace = manifest["metadata"].get("namespace")
            assert namespace is None or namespace in seen, f"{path.name} comes before namespace {namespace}"
            if manifest["kind"] == "Namespace":
                seen.add(manifest["metadata"]["name"])
    assert seen == {"default", "accelbench", "accelbench-bench", "accelbench-monitor"}


def test_every_placeholder_is_one_the_readme_sets() -> None:
    readme = (INFRA / "README.md").read_text(encoding="utf-8")
    used = {
        name
        for path in [*k8s_files(), INFRA / "dagster" / "values.yaml"]
        for name in re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8"))
    }
    assert used == set(VALUES)
    for name in used:
        assert re.search(rf"\b{name}=", readme), f"{name} is not exported in the README"


# -- Karpenter -----------------------------------------------------------------------------------------------

# Fields used here of karpenter.sh/v1 and karpenter.k8s.aws/v1, after karpenter.sh/v1.12/concepts/nodeclasses,
# karpenter.sh/docs/concepts/nodepools and disruption (in v1, expireAfter belongs to the template).
DURATION = re.compile(r"([0-9]+(s|m|h))+|Never")
SCHEMA: dict[str, dict[str, set[str]]] = {
    "NodePool": {
        "spec": {"template", "disruption", "limits"},
        "spec.template": {"metadata", "spec"},
        "spec.template.metadata": {"labels"},
        "spec.template.spec": {"nodeClassRef", "taints", "requirements", "expireAfter", "terminationGracePeriod"},
        "spec.template.spec.nodeClassRef": {"group", "kind", "name"},
        "spec.template.spec.taints[]": {"key", "value", "effect"},
        "spec.template.spec.requirements[]": {"key", "operator", "values"},
        "spec.disruption": {"consolidationPolicy", "consolidateAfter", "budgets"},
        "spec.disruption.budgets[]": {"nodes", "reasons"},
    },
    "EC2NodeClass": {
        "spec": {
            *("role", "amiSelectorTerms", "subnetSelectorTerms", "securityGroupSelectorTerms", "metadataOptions"),
            *("associatePublicIPAddress", "instanceStorePolicy", "blockDeviceMappings", "tags"),
        },
        "spec.amiSelectorTerms[]": {"alias"},
        "spec.subnetSelectorTerms[]": {"tags"},
        "spec.securityGroupSelectorTerms[]": {"tags"},
        "spec.blockDeviceMappings[]": {"deviceName", "ebs"},
        "spec.blockDeviceMappings[].ebs": {
            *("volumeSize", "volumeType", "iops", "throughput", "encrypted", "deleteOnTermination"),
        },
        "spec.metadataOptions": {"httpEndpoint", "httpTokens", "httpPutResponseHopLimit", "httpProtocolIPv6"},
    },
}  # fmt: skip
FREE = ("labels", "tags", "limits")


def fields(value: object, path: str) -> Iterator[tuple[str, set[str]]]:
    if isinstance(value, dict):
        if path.rpartition(".")[2] not in FREE:
            yield path, set(value)
            for key, inner in value.items():
                yield from fields(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, f"{path}[]")


@pytest.mark.parametrize("manifest", [m for m in objects() if m["kind"] in KARPENTER], ids=described)
def test_karpenter_knows_every_field(manifest: dict[str, Any]) -> None:
    group = {"NodePool": "karpenter.sh/v1", "EC2NodeClass": "karpenter.k8s.aws/v1"}
    assert manifest["apiVersion"] == group[manifest["kind"]]
    for path, names in fields(manifest["spec"], "spec"):
        assert names <= SCHEMA[manifest["kind"]][path], path


@pytest.mark.parametrize("pool", objects("NodePool"), ids=described)
def test_a_pool_never_moves_a_run_and_never_keeps_a_node(pool: dict[str, Any]) -> None:
    node, disruption = pool["spec"]["template"]["spec"], pool["spec"]["disruption"]
    assert disruption["consolidationPolicy"] == "WhenEmpty"
    assert disruption["consolidateAfter"] == "10m"
    for field in (node["expireAfter"], node["terminationGracePeriod"], disruption["consolidateAfter"]):
        assert DURATION.fullmatch(field)
        assert field != "Never"
    assert {"nodes": "0", "reasons": ["Drifted"]} in disruption["budgets"]
    requirements = {r["key"]: r["values"] for r in node["requirements"]}
    assert requirements["karpenter.sh/capacity-type"] == ["on-demand", "reserved"]
    assert one("EC2NodeClass", node["nodeClassRef"]["name"])["apiVersion"].startswith(
        node["nodeClassRef"]["group"]
    )


@pytest.mark.parametrize("node_class", objects("EC2NodeClass"), ids=described)
def test_nodes_are_pinned_encrypted_and_closed(node_class: dict[str, Any]) -> None:
    spec = node_class["spec"]
    (ami,) = spec["amiSelectorTerms"]
    assert "latest" not in ami["alias"]
    assert spec["metadataOptions"]["httpTokens"] == "required"
    assert spec["metadataOptions"]["httpPutResponseHopLimit"] == 1  # pods cannot reach the node's role
    for mapping in spec["blockDeviceMappings"]:
        assert mapping["ebs"]["encrypted"] is True
        assert mapping["ebs"]["deleteOnTermination"] is True


# -- the manifests of runs -----------------------------------------------------------------------------------


def deployment_on(instance: str) -> dict[str, Any]:
    kind = load_instances()[instance].accelerator_kind
    plugin = instance.startswith("trn2")
    version = "0.33.0" if kind == "gpu" else "0.24.0-neuron2.32" if plugin else "0.13-neuron2.28"
    model = load_models()["llama-3.1-8b-instruct"]
    cell = BenchmarkCell(
        model.slug, model.revision, instance, "vllm", version, Deployment(dtype="bf16"), "fixed.1k1k@1"
    )
    spec = ServerSpec(run_id="0" * 32, cell=cell, model_id=model.model_id, work_dir=Path())
    found = server_objects(spec, KubeSettings(), expires_at=datetime.now(UTC), region="us-east-1")
    return found[-1]


@pytest.mark.parametrize("instance", sorted(load_instances()))
def test_a_pool_makes_the_node_that_a_server_asks_for(instance: str) -> None:
    row, pod = load_instances()[instance], deployment_on(instance)["spec"]["template"]["spec"]
    pool = one("NodePool", f"accelbench-{row.accelerator_kind}")["spec"]
    node = pool["template"]["spec"]
    (taint,) = node["taints"]
    tolerated = {(t["key"], t["value"], t["effect"]) for t in pod["tolerations"]}
    assert (taint["key"], taint["value"], taint["effect"]) in tolerated
    for requirement in node["requirements"]:
        if requirement["key"] == "karpenter.k8s.aws/instance-family":
            assert instance.partition(".")[0] in requirement["values"]
    wanted = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (capacity,) = wanted["nodeSelectorTerms"][0]["matchExpressions"]
    assert {"key": capacity["key"], "operator": "In", "values": capacity["values"]} in node["requirements"]
    requests = pod["containers"][0]["resources"]["requests"]
    device = {"gpu": "nvidia.com/gpu", "neuron": "aws.amazon.com/neuron"}[row.accelerator_kind]
    quota = one("ResourceQuota", "accelbench-bench")["spec"]["hard"]
    assert int(requests[device]) <= int(pool["limits"][device]) <= int(quota[f"requests.{device}"])
    assert row.vcpu <= pool["limits"]["cpu"]
    assert row.memory_mib <= 4 * 1024 * 1024 == 1024 * 1024 * int(pool["limits"]["memory"][:-2])


def test_names_of_the_settings_exist() -> None:
    kube = KubeSettings()
    for account in (kube.server_service_account, kube.loadgen_service_account):
        assert one("ServiceAccount", account)["metadata"]["namespace"] == kube.namespace
    assert one("Namespace", kube.namespace)


def test_exporters_listen_where_the_settings_look(monkeypatch: pytest.MonkeyPatch) -> None:
    kube = KubeSettings()
    for name, url, kind in (
        ("dcgm-exporter", kube.gpu_exporter, "gpu"),
        ("neuron-monitor", kube.neuron_exporter, "neuron"),
    ):
        spec = one("DaemonSet", name)["spec"]["template"]["spec"]
        port = spec["containers"][0]["ports"][0]["hostPort"]
        assert f":{port}/metrics" in (url or "")
        (taint,) = one("NodePool", f"accelbench-{kind}")["spec"]["template"]["spec"]["taints"]
        assert spec["tolerations"][0]["key"] == taint["key"]
        assert spec["nodeSelector"] == {"accelbench.io/accelerator": kind}
        egress = one("NetworkPolicy", "generators")["spec"]["egress"]
        assert any(p["port"] == port for rule in egress if "ipBlock" in rule["to"][0] for p in rule["ports"])


def test_the_settings_of_the_cluster_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    data = one("ConfigMap", "accelbench-settings")["data"]
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.launcher, settings.lake_url) == ("eks", "s3://bench/lake")
    assert settings.kube.namespace == "accelbench-bench"
    assert settings.kube.loadgen_image == VALUES["LOADGEN_IMAGE"]


# -- rights --------------------------------------------------------------------------------------------------

# Verbs of every call to the API: of the orchestrator (launcher, Lease, tear-down) and of the reaper.
ORCHESTRATOR = {
    "namespaces": {"get"},
    "nodes": {"get"},
    "nodeclaims": {"get"},
    "configmaps": {"create", "get", "list", "patch", "delete"},
    "services": {"create", "get", "list", "delete"},
    "pods": {"get", "list", "delete"},
    "pods/log": {"get"},
    "pods/proxy": {"get", "create"},
    "events": {"list"},
    "deployments": {"create", "get", "list", "delete"},
    "replicasets": {"get", "list", "delete"},
    "jobs": {"create", "get", "list", "delete"},
    "leases": {"create", "get", "list", "patch", "delete"},
}
REAPER = {
    "namespaces": {"get"},
    "nodes": {"get"},
    "leases": {"create", "get", "list", "patch", "delete"},
    **{key: {"get", "list", "delete"} for key in ("configmaps", "services", "pods")},
    **{key: {"get", "list", "delete"} for key in ("deployments", "replicasets", "jobs")},
}  # fmt: skip


def granted(account: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for binding in [*objects("RoleBinding"), *objects("ClusterRoleBinding")]:
        if not any(s["name"] == account for s in binding["subjects"]):
            continue
        role = one(binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace") == binding["metadata"].get("namespace")
        for rule in role["rules"]:
            for resource in rule["resources"]:
                group = next((v for v, r in KINDS.values() if r == resource.partition("/")[0]), "")
                assert rule["apiGroups"] == [group.rpartition("/")[0]], resource
                found.setdefault(resource, set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize(
    ("account", "needed"), [("accelbench-orchestrator", ORCHESTRATOR), ("accelbench-reaper", REAPER)]
)
def test_rights_cover_every_call_and_hold_no_secret(account: str, needed: dict[str, set[str]]) -> None:
    rights = granted(account)
    for resource, verbs in needed.items():
        assert verbs <= rights.get(resource, set()), resource
    assert set(rights) == set(needed)
    assert "secrets" not in rights
    assert not any("*" in verbs for verbs in rights.values())
    assert rights["nodes"] <= {"get", "list"}


CALLS = {"create": "create", "get": "get", "list": "list", "patch": "patch", "delete": "delete"}


def calls_in(path: Path) -> Iterator[tuple[str, str]]:
    """(verb, Kind) of every ``….verb("Kind", …)`` in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            first = node.args[0]
            if node.func.attr in CALLS and isinstance(first, ast.Constant) and first.value in KINDS:
                yield CALLS[node.func.attr], str(first.value)


def test_the_table_of_rights_has_every_call_of_the_launcher() -> None:
    launch = ROOT / "accelbench_assets" / "launch"
    found = {call for path in [launch / "eks.py", *(launch / "kube").glob("*.py")] for call in calls_in(path)}
    assert len(found) > 8  # the scan sees calls at all
    for verb, kind in found:
        resource = KINDS[kind][1]
        assert verb in ORCHESTRATOR.get(resource, set()), f"{verb} {resource} is not in the table"


def test_the_reaper_may_remove_every_kind_it_sweeps() -> None:
    for kind in SWEPT:
        assert {"list", "get", "delete"} <= REAPER[KINDS[kind][1]], kind
    for path in ("reap.py", "sweep.py"):
        for verb, kind in calls_in(ROOT / "accelbench_assets" / "launch" / "kube" / path):
            assert verb in REAPER[KINDS[kind][1]]


# -- the reaper ----------------------------------------------------------------------------------------------


def test_the_reaper_runs_a_command_that_exists_and_never_twice_at_once() -> None:
    spec = one("CronJob", "accelbench-reaper")["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("*/5 * * * *", "Forbid")
    job = spec["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] < 300
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    program, *arguments = container["command"]
    assert program == "accelbench"
    from typer.testing import CliRunner

    told = CliRunner().invoke(app, [*arguments, "--help"])
    assert told.exit_code == 0, told.output
    for flag in (a for a in arguments if a.startswith("--")):
        assert flag in re.sub(r"\x1b\[[0-9;]*m", "", told.output)


def test_the_reaper_goes_before_what_fills_its_nodes() -> None:
    pod = one("CronJob", "accelbench-reaper")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    priority = one("PriorityClass", pod["priorityClassName"])
    assert priority["value"] > 0  # what a pod without a class has, as generators and servers
    assert priority.get("preemptionPolicy", "PreemptLowerPriority") == "PreemptLowerPriority"
    assert not priority.get("globalDefault")
    assert "priorityClassName" not in deployment_on("g6e.xlarge")["spec"]["template"]["spec"]


def pods() -> list[tuple[str, dict[str, Any]]]:
    found = [
        ("CronJob", one("CronJob", "accelbench-reaper")["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    ]
    return found + [(d["metadata"]["name"], d["spec"]["template"]["spec"]) for d in objects("DaemonSet")]


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_images_are_pinned_and_memory_is_bounded(name: str, pod: dict[str, Any]) -> None:
    for container in pod["containers"]:
        assert re.search(r":[\w][\w.-]*$|@sha256:", container["image"]), container["image"]
        assert not container["image"].endswith(":latest")
        assert "memory" in container["resources"]["limits"]


def test_the_reaper_would_pass_a_restricted_namespace() -> None:
    pod = dict(pods())["CronJob"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = pod["containers"][0]["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["allowPrivilegeEscalation"] is False
    assert {next(iter(v.keys() - {"name"})) for v in pod["volumes"]} <= {"emptyDir", "configMap"}


# -- networks ------------------------------------------------------------------------------------------------


def test_nothing_talks_that_is_not_named() -> None:
    deny = one("NetworkPolicy", "default-deny")["spec"]
    assert (deny["podSelector"], sorted(deny["policyTypes"])) == ({}, ["Egress", "Ingress"])
    assert "ingress" not in deny
    assert "egress" not in deny
    for policy in objects("NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for target in rule["to"]:
                block = target.get("ipBlock", {})
                if block.get("cidr") == "0.0.0.0/0":
                    # Instance metadata, and with it the node's role.
                    assert "169.254.0.0/16" in block["except"]
                    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]


def test_policies_select_the_pods_that_runs_make() -> None:
    labels = deployment_on("g6e.xlarge")["spec"]["template"]["metadata"]["labels"]
    assert one("NetworkPolicy", "servers")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_nothing_here_holds_a_secret() -> None:
    for path in sorted(INFRA.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"hf_[A-Za-z0-9]{10,}|AKIA[A-Z0-9]{16}|BEGIN [A-Z ]*PRIVATE KEY", text), path
    assert not objects("Secret")
