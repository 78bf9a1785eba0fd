"""Cells, specs and plans for the tests of manifests, and short ways into the objects."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate

from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.manifests import load_objects, server_objects
from accelbench_assets.settings_groups import KubeSettings
from loadgen.plan import Plan, Replica, Step
from partitions.catalog import load_models
from partitions.cell import BenchmarkCell, Deployment

VERSIONS = [f"1.{minor}" for minor in range(30, 37)]
RUN_ID = "01990a3e-5a57-7d3c-9f61-0123456789ab"
EXPIRES = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
CANARY = "hf_CanaryCanaryCanaryCanary99"


def make_cell(
    instance: str = "g6e.xlarge", model: str = "llama-3.1-8b-instruct", **more: Any
) -> BenchmarkCell:
    row = load_models()[model]
    neuron = instance.startswith(("inf", "trn1"))
    plugin = instance.startswith("trn2")
    version = "0.13-neuron2.28" if neuron else "0.24.0-neuron2.32" if plugin else "0.33.0"
    fields = {
        "revision": row.revision,
        "engine": "vllm",
        "engine_version": version,
        "workload": "fixed.1k1k@1",
        **{name: more.pop(name) for name in ("revision", "engine", "engine_version") if name in more},
    }
    deployment = Deployment(
        **{"dtype": "bf16", "max_model_len": 10240, "quantization": row.quantization, **more}
    )
    return BenchmarkCell(model=model, instance=instance, deployment=deployment, **fields)


def make_spec(cell: BenchmarkCell) -> ServerSpec:
    row = load_models().get(cell.model)
    model_id = row.model_id if row else "someone/model"
    return ServerSpec(run_id=RUN_ID, cell=cell, model_id=model_id, work_dir=Path())


def make_plan(**changes: Any) -> Plan:
    step = Step(0, "closed", 8, 5, 60, 30)
    plan = Plan(
        run_id=RUN_ID, model="llama-3.1-8b-instruct", replicas=(Replica("10.0.0.1", "http://10.0.0.1:8000"),),
        steps=(step,), workload={"id": "fixed.1k1k", "isl": 1024, "osl": 1024}, workload_id="fixed.1k1k@1",
        workload_hash="0" * 64, seed=1, request_timeout_s=600, idle_timeout_s=60, deadline_s=900,
    )  # fmt: skip
    return replace(plan, **changes)


def served(cell: BenchmarkCell, **kube: Any) -> list[dict[str, Any]]:
    return server_objects(make_spec(cell), KubeSettings(**kube), expires_at=EXPIRES, region="us-east-1")


def loaded(
    plan: Plan, *, zone: str | None = "us-east-1a", env: dict[str, str] | None = None, **kube: Any
) -> list[Any]:
    return load_objects(
        make_spec(make_cell()), KubeSettings(**kube), plan, "s3://bucket/lake/_incoming/x",
        zone=zone, deadline_s=930, expires_at=EXPIRES, env=env or {"AWS_REGION": "us-east-1"},
    )  # fmt: skip


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [x for x in objects if x["kind"] == kind]
    return found


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]


def server(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (container,) = pod(of_kind(objects, "Deployment"))["containers"]
    return container


def flag(container: dict[str, Any], name: str) -> str | None:
    arguments = container["args"]
    return arguments[arguments.index(f"--{name}") + 1] if f"--{name}" in arguments else None


def env(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def check(manifest: dict[str, Any], versions: list[str] = VERSIONS) -> None:
    for version in versions:
        kubernetes_validate.validate(manifest, version, strict=True)


def expanded(text: str, variables: dict[str, str]) -> str:
    """The rule of Kubernetes: ``$(NAME)`` is replaced where known, ``$$`` is one ``$``."""
    return re.sub(r"\$(\$|\(([^)]*)\))", lambda m: "$" if m[1] == "$" else variables.get(m[2], m[0]), text)


CELLS = {
    "g6e": make_cell(),
    "inf2": make_cell("inf2.8xlarge", tp=2),
    "trn1": make_cell("trn1.32xlarge", tp=8),
    "trn2": make_cell("trn2.48xlarge", tp=32),
    "some of the GPUs": make_cell("p5.48xlarge", tp=2, pp=2),
    "two replicas": make_cell("g6.12xlarge", tp=4, replicas=2, prefix_caching=False),
    "experts": make_cell("p5.48xlarge", "qwen3-30b-a3b", tp=2, dp=2, ep=4, kv_cache_dtype="fp8", prefix_caching=True),
}  # fmt: skip
