"""The objects of a run: every supported Kubernetes takes them, they say whose they are, and hold nothing secret."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from accelbench_assets.engines.container import check_ranks
from accelbench_assets.engines.images import container_engine
from accelbench_assets.engines.vllm_args import DTYPES, vllm_arguments
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.manifests import owned, server_objects
from accelbench_assets.settings_groups import KubeSettings
from loadgen.plan import Plan
from partitions.catalog import load_instances
from partitions.cell import BenchmarkCell, Deployment
from tests.launch.manifest_cases import (
    CANARY,
    CELLS,
    EXPIRES,
    RUN_ID,
    check,
    expanded,
    loaded,
    make_cell,
    make_plan,
    make_spec,
    of_kind,
    pod,
    served,
    server,
)
from tests.support.optional import VLLM_PYTHON, needs_vllm


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
@pytest.mark.parametrize("cache", [None, "pvc:weights"])
def test_every_version_takes_the_server(cell: BenchmarkCell, cache: str | None) -> None:
    for manifest in served(cell, model_cache=cache):
        check(manifest)


@pytest.mark.parametrize(
    "plan", [make_plan(), make_plan(shards=2), make_plan(workers=6)], ids=["1", "2", "w6"]
)
@pytest.mark.parametrize("zone", [None, "us-east-1a"])
def test_every_version_takes_the_generator(plan: Plan, zone: str | None) -> None:
    for manifest in loaded(plan, zone=zone, loadgen_secret="s3-keys"):
        check(manifest)


def test_the_validator_refuses_what_is_wrong() -> None:
    wrong = of_kind(served(make_cell()), "Deployment")
    wrong["spec"]["strategie"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong, ["1.36"])


# -- all of them ---------------------------------------------------------------------------------------------


def walk(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)
    else:
        yield value


def metadatas(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield manifest["metadata"]
    if manifest["kind"] in ("Deployment", "Job"):
        yield manifest["spec"]["template"]["metadata"]


def test_every_object_says_whose_it_is_and_when_it_must_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    everything = [*served(make_cell()), *loaded(make_plan())]
    assert len({(x["kind"], x["metadata"]["name"]) for x in everything}) == 5
    for manifest in everything:
        assert manifest["metadata"]["namespace"] == "accelbench-bench"
        assert len(manifest["metadata"]["name"]) <= 63
        for found in metadatas(manifest):
            assert found["labels"]["app.kubernetes.io/managed-by"] == "accelbench"
            assert found["labels"]["accelbench.io/cell"] == make_cell().cell_id
            assert found["annotations"]["accelbench.io/run-id"] == RUN_ID
            assert naming.parse_time(found["annotations"]["accelbench.io/expires-at"]) == EXPIRES
        assert CANARY not in json.dumps(manifest)
    assert os.environ["HF_TOKEN"] == CANARY


def test_an_owned_object_names_the_anchor_and_the_original_is_untouched() -> None:
    anchor, service, _ = served(make_cell())
    created = {**anchor, "metadata": {**anchor["metadata"], "uid": "5f0e"}}
    dependent = owned(service, created)
    assert dependent["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": anchor["metadata"]["name"], "uid": "5f0e",
         "controller": False, "blockOwnerDeletion": False}
    ]  # fmt: skip
    assert "ownerReferences" not in service["metadata"]
    check(dependent, ["1.30", "1.36"])


def test_equal_input_gives_equal_manifests() -> None:
    first = json.dumps([*served(make_cell()), *loaded(make_plan())])
    assert first == json.dumps([*served(make_cell()), *loaded(make_plan())])
    later = server_objects(
        make_spec(make_cell()), KubeSettings(), expires_at=EXPIRES + timedelta(hours=1), region="us-east-1"
    )
    assert json.dumps(later) != json.dumps(served(make_cell()))


TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=40)
COUNTS = st.sampled_from([1, 2, 4, 8])
DEPLOYMENTS = st.builds(
    Deployment,
    tp=COUNTS,
    pp=st.sampled_from([1, 2]),
    dp=st.sampled_from([1, 2]),
    replicas=st.integers(1, 8),
    dtype=st.sampled_from(sorted(DTYPES)),
    quantization=st.sampled_from(["none", "fp8", "awq"]),
    kv_cache_dtype=st.sampled_from(["auto", "fp8"]),
    max_model_len=st.none() | st.integers(1, 131_072),
    prefix_caching=st.sampled_from([None, True, False]),
    args=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True),
        TEXT.filter(str.isprintable),
        max_size=3,
    ).map(lambda found: tuple(found.items())),
)  # fmt: skip


def check_refusal(code: str, deployment: Deployment, instance: str) -> None:
    ranks, row = deployment.tp * deployment.pp * deployment.dp, load_instances()[instance]
    if code == "does_not_fit":
        assert ranks > row.tp_ranks
    elif code == "wrong_weights":  # vLLM makes no AWQ while loading
        assert deployment.quantization == "awq"
    else:  # only Neuron has more to refuse in these deployments
        assert code == "unsupported"
        assert row.accelerator_kind == "neuron"
        assert deployment.quantization != "none" or deployment.prefix_caching


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(deployment=DEPLOYMENTS, instance=st.sampled_from(sorted(load_instances())))
def test_any_deployment_gives_valid_objects_or_a_reason(deployment: Deployment, instance: str) -> None:
    cell = replace(make_cell(instance), deployment=deployment)
    try:
        objects = served(cell)
    except LaunchError as error:
        event(error.code)
        return check_refusal(error.code, deployment, instance)
    event("served")
    check_ranks(cell)
    container = server(objects)
    for manifest in objects:
        check(manifest, ["1.30", "1.36"])
    row = load_instances()[instance]
    device = container_engine(cell).device
    assert container["resources"]["limits"][device] == str(row.accelerator_count)
    assert int(container["resources"]["requests"]["cpu"][:-1]) < row.vcpu * 1000
    assert pod(of_kind(objects, "Deployment"))["nodeSelector"]["node.kubernetes.io/instance-type"] == instance
    seen = [expanded(text, {"POD_IP": "10.0.0.1"}) for text in container["args"]]
    for name, value in deployment.args:
        assert f"--{name}" in seen
        assert value in seen or value in ("", "true")


PARSE = """
import json, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser
parser = make_arg_parser(FlexibleArgumentParser())
names = ("model", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel",
         "quantization", "kv_cache_dtype", "max_model_len", "enable_prefix_caching", "enable_chunked_prefill", "dtype",
         "load_format", "revision", "served_model_name", "port")
for line in sys.stdin:
    found = parser.parse_args(json.loads(line))
    print(json.dumps({name: getattr(found, name) for name in names}))
"""


@pytest.mark.long
@needs_vllm
def test_real_vllm_understands_every_argument() -> None:
    cells = {
        "experts": served(CELLS["experts"]),
        "inf2": served(CELLS["inf2"]),
        "s3": served(make_cell("p5.4xlarge", quantization="fp8"), model_cache="s3://weights/hub"),
    }
    lines = "\n".join(json.dumps(server(objects)["args"]) for objects in cells.values())
    environment = {**os.environ, "VLLM_CONFIGURE_LOGGING": "0", "VLLM_NO_USAGE_STATS": "1"}
    answer = subprocess.run(
        [str(VLLM_PYTHON), "-P", "-c", PARSE],
        input=lines,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    experts, inf2, s3 = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    assert (experts["tensor_parallel_size"], experts["data_parallel_size"]) == (2, 2)
    assert (experts["enable_expert_parallel"], experts["enable_prefix_caching"]) == (True, True)
    assert (inf2["enable_prefix_caching"], inf2["enable_chunked_prefill"]) == (False, False)
    assert (s3["load_format"], s3["quantization"], s3["revision"]) == (
        "runai_streamer",
        "fp8_per_tensor",
        None,
    )
    assert s3["port"] == 8000


def test_local_and_container_servers_are_told_a_deployment_alike() -> None:
    deployment = Deployment(dtype="auto", max_model_len=512, prefix_caching=False)
    local = vllm_arguments(deployment, auto_dtype="bfloat16")
    assert local == ["--dtype", "bfloat16", "--max-model-len", "512", "--no-enable-prefix-caching"]
    assert vllm_arguments(deployment)[1] == "auto"
