"""Where a server runs, what it is, and whether its result may call itself measured."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.kube.identity import (
    check_instances,
    engine_facts,
    node_facts,
    on_aws,
    origin,
    same_version,
)
from accelbench_assets.launch.kube.serving import ReadyServer
from accelbench_assets.launch.probe import Server, try_completion
from tests.launch.conftest import FakeServer, SpecMaker

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def spec(make_spec: SpecMaker) -> ServerSpec:
    return make_spec(
        instance="g6e.12xlarge",
        engine="vllm",
        engine_version="0.32.0",
        quantization="none",
        tp=2,
        max_model_len=None,
    )


@pytest.fixture
def server(fake_server: FakeServer, spec: ServerSpec) -> ReadyServer:
    """A vLLM of the cell's version on node ``n1``."""
    fake_server.serve_models(spec.cell.model, owned_by="vllm")
    fake_server.serve_completions()
    fake_server.routes["/version"] = (200, {}, {"version": "0.32.0"})
    return ready(fake_server, spec)


def ready(fake_server: FakeServer, spec: ServerSpec, node: str = "n1") -> ReadyServer:
    target = Server(fake_server.url)
    container = {"name": "server", "imageID": f"docker.io/vllm/vllm-openai@{DIGEST}"}
    pod = {
        "metadata": {"name": f"pod-{node}", "uid": node},
        "spec": {"nodeName": node},
        "status": {"containerStatuses": [container], "podIP": "10.0.0.1"},
    }
    probe = try_completion(target, spec.cell.model, timeout_s=5.0)
    return ReadyServer(pod, f"10.0.0.1:8000/{node}", target, probe, datetime.now(UTC), 1.0)


def node(
    instance: str | None = "g6e.12xlarge", provider: str | None = "aws:///us-east-1a/i-0abc"
) -> dict[str, Any]:
    labels = {
        "topology.kubernetes.io/zone": "us-east-1a",
        "topology.kubernetes.io/region": "us-east-1",
        "karpenter.sh/capacity-type": "on-demand",
        "nvidia.com/cuda.driver.major": "570",
        "nvidia.com/cuda.driver.minor": "133",
        "nvidia.com/cuda.driver.rev": "20",
        "nvidia.com/cuda.runtime.major": "12",
        "nvidia.com/cuda.runtime.minor": "8",
    }
    if instance is not None:
        labels["node.kubernetes.io/instance-type"] = instance
    return {"metadata": {"labels": labels}, "spec": {"providerID": provider} if provider else {}}


def test_all_evidence_together_makes_a_result_measured(spec: ServerSpec, server: ReadyServer) -> None:
    assert on_aws(spec, [server], {"n1": node()})
    assert origin(spec, [server], emulated=False, aws=True) == "measured"


@pytest.mark.parametrize(
    "nodes",
    [
        {},  # nodes may not be read
        {"n1": node(provider=None)},
        {"n1": node(provider="kind://docker/kind/worker")},
        {"n1": node(instance=None)},
        {"n1": node(instance="g6e.xlarge")},
        {"n2": node()},
    ],
)
def test_without_one_piece_of_evidence_it_is_simulated(
    spec: ServerSpec, server: ReadyServer, nodes: dict[str, Any]
) -> None:
    aws = on_aws(spec, [server], nodes)
    assert not aws
    assert origin(spec, [server], emulated=False, aws=aws) == "simulated"
    assert not on_aws(spec, [], {"n1": node()})


def test_one_replica_elsewhere_spoils_the_evidence(
    spec: ServerSpec, server: ReadyServer, fake_server: FakeServer
) -> None:
    other = ready(fake_server, spec, "n2")
    assert on_aws(spec, [server, other], {"n1": node(), "n2": node()})
    assert not on_aws(spec, [server, other], {"n1": node(), "n2": node(provider=None)})


def test_an_emulated_cluster_is_simulated_whatever_its_nodes_say(
    spec: ServerSpec, server: ReadyServer
) -> None:
    assert on_aws(spec, [server], {"n1": node()})  # forged
    assert origin(spec, [server], emulated=True, aws=True) == "simulated"


def test_a_stand_in_on_real_nodes_is_simulated(spec: ServerSpec, fake_server: FakeServer) -> None:
    fake_server.serve_models(spec.cell.model, x_accelbench_origin="simulated")
    fake_server.serve_completions(x_accelbench_origin="simulated")
    assert origin(spec, [ready(fake_server, spec)], emulated=False, aws=True) == "simulated"
    fake_server.serve_completions()  # one that marks only its list of models
    assert origin(spec, [ready(fake_server, spec)], emulated=False, aws=True) == "simulated"


@pytest.mark.parametrize("version", ["0.31.0", "0.32.1"])
def test_another_version_than_the_cells_is_refused(
    spec: ServerSpec, server: ReadyServer, fake_server: FakeServer, version: str
) -> None:
    fake_server.routes["/version"] = (200, {}, {"version": version})
    with pytest.raises(LaunchError, match=r"0\.32\.0") as caught:
        origin(spec, [server], emulated=False, aws=True)
    assert caught.value.code == "wrong_version"


@pytest.mark.parametrize("path", ["/version", "/v1/models"])
def test_a_server_that_says_nothing_contradicts_nothing(
    spec: ServerSpec, server: ReadyServer, fake_server: FakeServer, path: str
) -> None:
    said = fake_server.routes.pop(path)
    with pytest.raises(LaunchError, match="does not say what it is") as caught:
        origin(spec, [server], emulated=False, aws=True, wait_s=0.1)
    assert caught.value.code == "not_ready"
    assert origin(spec, [server], emulated=False, aws=False, wait_s=0.1) == "simulated"

    busy = [(503, {}, {}), said]  # the first time it is asked, and after that
    answer = fake_server.answer

    def answer_late(asked: str, *rest: Any) -> Any:
        return (busy.pop(0) if len(busy) > 1 else busy[0]) if asked == path else answer(asked, *rest)

    fake_server.answer = answer_late  # type: ignore[method-assign,assignment]
    assert origin(spec, [server], emulated=False, aws=True, wait_s=5.0) == "measured"
    assert len(busy) == 1


def test_another_engine_is_refused(spec: ServerSpec, server: ReadyServer, fake_server: FakeServer) -> None:
    fake_server.serve_models(spec.cell.model, owned_by="sglang")
    fake_server.routes["/get_server_info"] = (200, {}, {"version": "0.32.0"})
    with pytest.raises(LaunchError, match="sglang"):
        origin(spec, [server], emulated=False, aws=True)


@pytest.mark.parametrize(
    ("wanted", "said", "same"),
    [
        ("0.32.0", "0.32.0", True),
        ("0.32.0", "v0.32.0+cu129", True),
        ("0.32.0+cu129", "0.32.0+cu129", True),
        ("0.32.0+cu129", "0.32.0+cu128", False),
        ("0.32.0", "0.32.0rc1", False),
        ("0.32.0", "0.32", False),
        ("0.13-neuron2.28", "0.13.0", True),
        ("0.13-neuron2.28", "0.13.0+neuron", True),
        ("0.13-neuron2.28", "0.130.0", False),
        ("0.13-neuron2.28", "0.14.0", False),
    ],
)
def test_same_version(wanted: str, said: str, same: bool) -> None:
    assert same_version(wanted, said) is same


def test_a_server_on_another_instance_is_refused(spec: ServerSpec, server: ReadyServer) -> None:
    check_instances(spec, [server], {"n1": node()})
    check_instances(spec, [server], {})  # not known is not wrong; it is not measured either
    with pytest.raises(LaunchError, match=r"g6e\.xlarge.*g6e\.12xlarge") as caught:
        check_instances(spec, [server], {"n1": node(instance="g6e.xlarge")})
    assert caught.value.code == "wrong_instance"


def test_where_it_runs(spec: ServerSpec, server: ReadyServer, fake_server: FakeServer) -> None:
    other = ready(fake_server, spec, "n2")
    facts = node_facts(spec, [server, other], {"n1": node(), "n2": node(provider="aws:///us-east-1a/i-0def")})
    assert facts["instance_count"] == 2
    assert facts["accelerators_used"] == 4  # tp 2 on each of two instances
    assert facts["accelerator_kind"] == "gpu"
    assert facts["accelerator_name"]
    assert (facts["region"], facts["zone"], facts["capacity_type"]) == (
        "us-east-1",
        "us-east-1a",
        "on-demand",
    )
    assert (facts["driver_version"], facts["runtime_version"]) == ("570.133.20", "12.8")
    assert facts["node_name"] == "n1,n2"
    alone = node_facts(spec, [server], {"n1": node()})
    assert alone["host_fingerprint"] != facts["host_fingerprint"]
    assert node_facts(spec, [server], {})["host_fingerprint"] is None


def test_neuron_counts_devices_not_cores(spec: ServerSpec, server: ReadyServer) -> None:
    deployment = dataclasses.replace(spec.cell.deployment, tp=8)
    cell = dataclasses.replace(
        spec.cell, instance="inf2.24xlarge", engine_version="0.13-neuron2.28", deployment=deployment
    )
    found = dataclasses.replace(spec, cell=cell)
    assert node_facts(found, [server], {})["accelerators_used"] == 4  # two cores a device
    assert engine_facts(found, [server], {}, "server")["neuron_sdk_version"] == "2.28"


def test_what_serves(spec: ServerSpec, server: ReadyServer, fake_server: FakeServer) -> None:
    rows = [{"id": spec.cell.model, "owned_by": "vllm", "max_model_len": 8192}]
    fake_server.routes["/v1/models"] = (200, {}, {"data": rows})
    labels = 'block_size="16",cache_dtype="fp8",enable_prefix_caching="True"'
    fake_server.routes["/metrics"] = (200, {}, f"vllm:cache_config_info{{{labels}}} 1.0\n")
    container = {
        "name": "server",
        "args": ["--model", "org/name", "--revision", "f" * 40, "--host", "$(POD_IP)", "--port", "8000"],
        "env": [
            {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
            {"name": "HF_HOME", "value": "/cache"},
            {"name": "MY_API_KEY", "value": "abcdefghij"},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
        ],
    }
    deployment = {"spec": {"template": {"spec": {"containers": [container]}}}}
    facts = engine_facts(spec, [server], deployment, "server")
    assert facts["image_digest"] == DIGEST
    assert facts["model_revision"] == "f" * 40
    assert facts["max_model_len"] == 8192
    assert facts["kv_cache_dtype"] == "fp8"
    assert facts["prefix_caching"] is True
    assert facts["engine_args"]["model"] == "name"
    assert "host" not in facts["engine_args"]
    assert facts["env"] == {"VLLM_NO_USAGE_STATS": "1", "MY_API_KEY": "****"}
