"""The server of a run: what a cell becomes on GPUs and on Neuron, and what is refused before anything is paid."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube import naming
from partitions.catalog import load_instances, load_models
from partitions.cell import BenchmarkCell
from tests.launch.manifest_cases import (
    CANARY,
    CELLS,
    RUN_ID,
    env,
    expanded,
    flag,
    loaded,
    make_cell,
    make_plan,
    of_kind,
    pod,
    served,
    server,
)

# -- the server ----------------------------------------------------------------------------------------------


def test_a_gpu_server_fills_its_instance_and_says_what_the_cell_says() -> None:
    objects = served(make_cell())
    assert [x["kind"] for x in objects] == ["ConfigMap", "Service", "Deployment"]  # the owner first
    deployment, container = of_kind(objects, "Deployment"), server(objects)
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["progressDeadlineSeconds"] == 900 + 3600
    assert container["image"] == "vllm/vllm-openai:v0.33.0"
    assert container["command"] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    row = load_instances()["g6e.xlarge"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests["nvidia.com/gpu"] == limits["nvidia.com/gpu"] == "1"
    assert requests["cpu"] == "3000m"
    assert "cpu" not in limits
    assert int(requests["memory"][:-2]) < int(limits["memory"][:-2]) < row.memory_mib * 0.86
    row70 = load_models()["llama-3.1-8b-instruct"]
    assert flag(container, "model") == row70.model_id
    assert flag(container, "revision") == row70.commit
    assert flag(container, "served-model-name") == "llama-3.1-8b-instruct"
    assert flag(container, "host") == "$(POD_IP)"
    assert env(container)["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert (flag(container, "dtype"), flag(container, "max-model-len")) == ("bfloat16", "10240")
    assert flag(container, "quantization") is None
    spec = pod(deployment)
    assert spec["nodeSelector"] == {"node.kubernetes.io/instance-type": "g6e.xlarge"}
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]
    assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
    assert spec["terminationGracePeriodSeconds"] == 10
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert mounts == {"/dev/shm", "/cache"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    template = deployment["spec"]["template"]["metadata"]
    assert template["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


def test_capacity_is_never_spot() -> None:
    affinity = pod(of_kind(served(make_cell()), "Deployment"))["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    assert expression == {
        "key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand", "reserved"]
    }  # fmt: skip


@pytest.mark.parametrize("start_s", [20.0, 3599.0, 14_400.0])
def test_probes_wait_as_long_as_a_start_may_take_and_kill_nothing_afterwards(start_s: float) -> None:
    container = server(served(make_cell(), start_s=start_s))
    startup = container["startupProbe"]
    assert startup["httpGet"] == {"path": "/health", "port": "http"} == container["readinessProbe"]["httpGet"]
    assert start_s <= startup["failureThreshold"] * startup["periodSeconds"] < start_s + 10
    assert "livenessProbe" not in container


def test_service_and_deployment_select_the_pods_of_this_run_only() -> None:
    objects = served(make_cell(replicas=2))
    deployment, service = of_kind(objects, "Deployment"), of_kind(objects, "Service")
    assert deployment["spec"]["replicas"] == 2
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    wanted = service["spec"]["selector"]
    assert wanted == deployment["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= labels.items()
    assert wanted[naming.RUN_LABEL] == naming.run12(RUN_ID)
    job = of_kind(loaded(make_plan()), "Job")
    assert not wanted.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8000, "http")


def test_fewer_ranks_than_accelerators_still_take_the_whole_instance() -> None:
    container = server(served(CELLS["some of the GPUs"]))
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert flag(container, "tensor-parallel-size") == flag(container, "pipeline-parallel-size") == "2"


def test_experts_caches_and_data_parallelism() -> None:
    container = server(served(CELLS["experts"]))
    assert flag(container, "data-parallel-size") == "2"
    assert {"--enable-expert-parallel", "--enable-prefix-caching"} <= set(container["args"])
    assert flag(container, "kv-cache-dtype") == "fp8"
    assert "--no-enable-prefix-caching" in server(served(CELLS["two replicas"]))["args"]
    plain = server(served(make_cell()))["args"]
    assert not [word for word in plain if "prefix-caching" in word]


# -- Neuron --------------------------------------------------------------------------------------------------


def test_inferentia_serves_by_nxd_inference() -> None:
    objects = served(CELLS["inf2"])
    container, variables = server(objects), env(server(objects))
    assert container["image"].endswith(":0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04")
    assert container["command"] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    assert container["resources"]["limits"]["aws.amazon.com/neuron"] == "1"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert variables["NEURON_RT_NUM_CORES"] == "2" == flag(container, "tensor-parallel-size")
    assert "NEURON_LOGICAL_NC_CONFIG" not in variables
    assert variables["NEURON_COMPILED_ARTIFACTS"].startswith("/cache/neuron/llama-3.1-8b-instruct-")
    assert {"--no-enable-prefix-caching", "--no-enable-chunked-prefill"} <= set(container["args"])
    (toleration,) = pod(of_kind(objects, "Deployment"))["tolerations"]
    assert toleration["key"] == "aws.amazon.com/neuron"


def test_trainium2_serves_by_the_plugin_with_logical_cores() -> None:
    container = server(served(CELLS["trn2"]))
    assert container["image"].endswith(":0.24.0.1.1.0-neuronx-py313-sdk2.32.0-ubuntu24.04")
    assert container["resources"]["requests"]["aws.amazon.com/neuron"] == "16"
    variables = env(container)
    assert variables["NEURON_LOGICAL_NC_CONFIG"] == "2"
    assert "NEURON_RT_NUM_CORES" not in variables
    assert "--no-enable-chunked-prefill" not in container["args"]


def test_replicas_do_not_write_one_folder_of_compiled_code() -> None:
    assert "NEURON_COMPILED_ARTIFACTS" not in env(server(served(make_cell("inf2.8xlarge", tp=2, replicas=2))))


@pytest.mark.parametrize(
    ("cell", "code", "says"),
    [
        (make_cell("inf2.8xlarge", engine_version="0.24.0-neuron2.32"), "unsupported", "does not serve inf2.8xlarge"),
        (make_cell("inf2.8xlarge", engine_version="0.14-neuron2.29"), "bad_config", "engine_images"),
        (make_cell("inf2.8xlarge", engine_version="0.33.0"), "bad_config", "VLLM-neuronSDK"),
        (make_cell("inf2.8xlarge", prefix_caching=True), "unsupported", "block layout"),
        (make_cell("trn2.48xlarge", quantization="fp8"), "unsupported", "additional-config"),
        (make_cell("g6e.xlarge", tp=2), "does_not_fit", "needs 2 ranks, and g6e.xlarge has 1"),
        (make_cell("inf2.8xlarge", tp=4), "does_not_fit", "has 2"),
        (make_cell("g6e.xlarge", engine="llamacpp"), "unsupported", "no image"),
        (make_cell("g6e.xlarge", router="round-robin"), "unsupported", "router"),
        (make_cell("g6e.12xlarge", tp=4, ep=2), "unsupported", "all 4 ranks"),
        (make_cell("g6e.xlarge", model="deepseek-r1", quantization="none"), "wrong_weights", "is fp8"),
        (make_cell("g6e.xlarge", revision="unpinned"), "bad_config", "not pinned"),
        (make_cell("g6e.xlarge", args=(("served_model_name", "other"),)), "bad_config", "--served-model-name"),
        (make_cell("g6e.xlarge", engine_version="0.33.0+cu130"), "bad_config", "name of an image"),
        (make_cell("local-1a2b3c4d"), "unsupported", "no row"),
    ],
)  # fmt: skip
def test_what_would_not_be_what_the_key_says_is_refused_before_anything_is_paid(
    cell: BenchmarkCell, code: str, says: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        served(cell)
    assert caught.value.code == code
    assert says in str(caught.value)


def test_a_neuron_configuration_of_the_cell_lifts_the_refusals() -> None:
    config = json.dumps({"override_neuron_config": {"is_block_kv_layout": True, "is_prefix_caching": True}})
    cell = make_cell("inf2.8xlarge", tp=2, prefix_caching=True, args=(("additional-config", config),))
    arguments = server(served(cell))["args"]
    assert "--enable-prefix-caching" in arguments
    assert config in arguments


# -- weights -------------------------------------------------------------------------------------------------


def test_quantization_is_said_only_where_the_checkpoint_is_not_so_already() -> None:
    assert (
        flag(server(served(make_cell("p5.4xlarge", quantization="fp8"))), "quantization") == "fp8_per_tensor"
    )
    assert flag(server(served(make_cell("p5.48xlarge", "deepseek-r1", tp=8))), "quantization") is None
    assert flag(server(served(make_cell("g6e.xlarge", "gpt-oss-20b"))), "quantization") is None


def test_a_token_is_asked_for_by_reference_and_only_for_gated_or_unknown_models() -> None:
    wanted = {"secretKeyRef": {"name": "hub", "key": "token", "optional": True}}
    assert env(server(served(make_cell(), hf_secret="hub")))["HF_TOKEN"] == wanted  # gated: true
    assert (
        env(server(served(make_cell(model="mistral-7b-instruct-v0.3"), hf_secret="hub")))["HF_TOKEN"]
        == wanted
    )
    assert "HF_TOKEN" not in env(server(served(make_cell(model="qwen3-8b"), hf_secret="hub")))
    unknown = BenchmarkCell.from_dict({**make_cell().to_dict(), "model": "mine", "revision": "a" * 40})
    assert env(server(served(unknown, hf_secret="hub")))["HF_TOKEN"] == wanted


def test_weights_lie_on_the_node_on_a_claim_or_on_s3() -> None:
    def cache(objects: list[dict[str, Any]]) -> dict[str, Any]:
        return {v["name"]: v for v in pod(of_kind(objects, "Deployment"))["volumes"]}["cache"]

    limit = cache(served(make_cell()))["emptyDir"]["sizeLimit"]
    assert int(limit[:-2]) > 2 * load_models()["llama-3.1-8b-instruct"].weight_gib
    assert cache(served(make_cell(), model_cache="pvc:weights"))["persistentVolumeClaim"] == {
        "claimName": "weights"
    }
    row = load_models()["llama-3.1-8b-instruct"]
    container = server(served(make_cell(), model_cache="s3://weights/hub/"))
    assert flag(container, "model") == f"s3://weights/hub/{row.model_id}/{row.commit}"
    assert flag(container, "load-format") == "runai_streamer"
    assert flag(container, "revision") is None
    assert "HF_TOKEN" not in env(container)
    with pytest.raises(LaunchError, match="pvc:NAME"):
        served(CELLS["inf2"], model_cache="s3://weights/hub")


def test_images_can_be_ones_own_by_flavour_and_by_version() -> None:
    pinned = "mirror.example/n@sha256:" + "a" * 64
    own = {"vllm": "mirror.example:5000/vllm:{version}", "vllm-neuron@0.14-neuron2.29": pinned}
    assert server(served(make_cell(), engine_images=own))["image"] == "mirror.example:5000/vllm:0.33.0"
    neuron = make_cell("inf2.8xlarge", tp=2, engine_version="0.14-neuron2.29")
    assert server(served(neuron, engine_images=own))["image"] == pinned


def test_no_argument_of_a_cell_makes_kubernetes_expand_a_variable() -> None:
    cell = make_cell(args=(("chat-template", "$(HF_TOKEN) costs $5 $$"),))
    container = server(served(cell))
    given_text = flag(container, "chat-template")
    assert given_text is not None
    assert expanded(given_text, {"HF_TOKEN": CANARY}) == "$(HF_TOKEN) costs $5 $$"
    assert expanded(flag(container, "host") or "", {"POD_IP": "10.1.2.3"}) == "10.1.2.3"
