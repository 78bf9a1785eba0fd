"""What really serves: the node's instance, the engine's version, and whether the result counts as measured.

Belongs here: evidence about node, image and engine, and the fields of the ``runs`` record that come of it.
Does not belong here: times of the start (``phases``), what a run is worth (``bench``).

``measured`` needs every piece of evidence; without one of them the result is ``simulated``. An emulated cluster never
gives it, whatever its nodes say.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from accelbench_assets.engines.base import started_with
from accelbench_assets.engines.container import instance_of
from accelbench_assets.engines.registry import get_engine
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.facts import clean_args
from accelbench_assets.launch.identify import identify, origin_of
from accelbench_assets.launch.kube.look import Object, container_status, node_of, status_of
from accelbench_assets.launch.kube.serving import ReadyServer
from accelbench_assets.launch.probe import Unreachable
from accelbench_assets.scrub import scrub_env

INSTANCE_LABEL = "node.kubernetes.io/instance-type"
CAPACITY_LABEL = "karpenter.sh/capacity-type"
_CAPACITY_LABELS = (CAPACITY_LABEL, "eks.amazonaws.com/capacityType")
_FOLDERS = ("_CACHE", "_DIR", "_HOME", "_PATH", "_ROOT")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ASK_S = 10.0
_PAUSE_S = 1.0
SILENT_S = 60.0
"""Longest wait for a server that answers completions to say what it is."""


def check_instances(spec: ServerSpec, replicas: Sequence[ReadyServer], nodes: Mapping[str, Object]) -> None:
    """Raise ``LaunchError`` (``wrong_instance``) when a server runs on another instance type than the cell names."""
    for replica in replicas:
        node = nodes.get(node_of(replica.pod))
        found = _labels(node).get(INSTANCE_LABEL) if node else None
        if found is not None and found != spec.cell.instance:
            raise LaunchError(
                f"The server runs on {found} (node {node_of(replica.pod)}), and the cell names {spec.cell.instance}.",
                code="wrong_instance",
                hint="Check the NodePool's requirements and the node's labels.",
            )


def on_aws(spec: ServerSpec, replicas: Sequence[ReadyServer], nodes: Mapping[str, Object]) -> bool:
    """Whether every server's node is an EC2 instance of the cell's type, as far as the cluster knows."""
    for replica in replicas:
        node = nodes.get(node_of(replica.pod))
        provider = str(((node or {}).get("spec") or {}).get("providerID") or "")
        if not provider.startswith("aws:///") or _labels(node).get(INSTANCE_LABEL) != spec.cell.instance:
            return False
    return bool(replicas)


def engine_says(replica: ReadyServer) -> tuple[str | None, str | None]:
    """Engine and version in the server's own words; ``(None, None)`` when it says nothing."""
    try:
        models = replica.server.request("GET", "/v1/models", timeout_s=_ASK_S)
    except Unreachable:
        return None, None
    listed = models.json() if models.status == 200 else None
    data = listed.get("data") if isinstance(listed, dict) else None
    rows = [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []
    found = identify(replica.server, models, rows)
    return found.engine, found.version


def origin(
    spec: ServerSpec, replicas: Sequence[ReadyServer], *, emulated: bool, aws: bool, wait_s: float = SILENT_S
) -> str:
    """``measured`` or ``simulated``. Raises ``LaunchError`` when a server on real nodes says it is another engine or
    version than the cell names (``wrong_version``), or has not said what it is after *wait_s* seconds for all
    (``not_ready``): silence is no contradiction.
    """
    if emulated or not aws or any(origin_of(one.probe.reply) == "simulated" for one in replicas):
        return "simulated"
    cell = spec.cell
    limit = time.monotonic() + wait_s
    for replica in replicas:
        engine, version = engine_says(replica)
        while engine in (None, cell.engine) and version is None and time.monotonic() < limit:
            time.sleep(min(_PAUSE_S, wait_s))
            engine, version = engine_says(replica)
        if engine == "truth":
            return "simulated"
        if engine is None or (engine == cell.engine and version is None):
            raise LaunchError(
                f"The server at {replica.address} does not say what it is: no "
                f"{'version' if engine else 'engine'} after {wait_s:.0f} s, and the cell names {cell.engine} "
                f"{cell.engine_version}.",
                code="not_ready",
                hint="Check that the image in kube.engine_images answers /version and /v1/models.",
            )
        if engine != cell.engine or version is None or not same_version(cell.engine_version, version):
            raise LaunchError(
                f"The cell names {cell.engine} {cell.engine_version}, and the server at {replica.address} says it is "
                f"{engine} {version or 'of an unstated version'}.",
                code="wrong_version",
                hint="Check the image in kube.engine_images.",
            )
    return "measured"


def same_version(wanted: str, said: str) -> bool:
    """Whether a server that says *said* is of the cell's version: build marks (``+cu129``) count only if wanted.

    A Neuron cell names ``VLLM-neuronSDK``; its server says vLLM's version, perhaps with more digits.
    """
    wanted, said = wanted.lower(), said.lower().removeprefix("v")
    base, neuron, _ = wanted.partition("-neuron")
    short = said.partition("+")[0]
    if neuron:
        return short == base or short.startswith(f"{base}.")
    return wanted in (said, short)


def node_facts(
    spec: ServerSpec, replicas: Sequence[ReadyServer], nodes: Mapping[str, Object]
) -> dict[str, Any]:
    """Where it runs: fields of target, driver and runtime; of several nodes what they have in common."""
    row, deployment = instance_of(spec.cell), spec.cell.deployment
    names = sorted({node_of(replica.pod) for replica in replicas})
    found = [nodes[name] for name in names if nodes.get(name)]
    labels = [_labels(node) for node in found]
    ranks = deployment.tp * deployment.pp * deployment.dp
    devices = min(row.accelerator_count, -(-ranks // row.accelerator.tp_ranks))
    prints = sorted(filter(None, (_machine(node) for node in found)))
    return {
        "region": _common(labels, "topology.kubernetes.io/region"),
        "zone": _common(labels, "topology.kubernetes.io/zone"),
        "node_name": ",".join(names),
        "capacity_type": _common(labels, *_CAPACITY_LABELS),
        "instance_count": len(names),
        "accelerator_kind": row.accelerator_kind,
        "accelerator_name": row.accelerator_name,
        "accelerators_used": devices * len(replicas),
        "host_fingerprint": hashlib.sha256("|".join(prints).encode()).hexdigest()[:8] if prints else None,
        "driver_version": _common(labels, "nvidia.com/cuda.driver-version.full")
        or _dotted(labels, "nvidia.com/cuda.driver", "major", "minor", "rev"),
        "runtime_version": _common(labels, "nvidia.com/cuda.runtime-version.full")
        or _dotted(labels, "nvidia.com/cuda.runtime", "major", "minor"),
    }


def engine_facts(
    spec: ServerSpec, replicas: Sequence[ReadyServer], deployment: Object, container: str
) -> dict[str, Any]:
    """What serves: image, effective arguments, environment as asked for, engine facts among the arguments."""
    pod_spec = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    asked: Object = next((c for c in pod_spec.get("containers") or () if c.get("name") == container), {})
    started = started_with([str(word) for word in asked.get("args") or ()])
    engine = get_engine(spec.cell.engine)
    arguments = engine.effective_args(replicas[0].server, started)
    facts = {name: arguments.get(argument) for name, argument in engine.fact_args.items()}
    caching = facts.pop("prefix_caching", None)
    env = {e["name"]: e["value"] for e in asked.get("env") or () if isinstance(e.get("value"), str)}
    images = {str(container_status(one.pod, container).get("imageID") or "") for one in replicas}
    digests = {found[0] for image in images if (found := _DIGEST.search(image))}
    neuron = re.search(r"-neuron([0-9][0-9.]*)", spec.cell.engine_version)
    return {
        **{name: value for name, value in facts.items() if value is not None},
        **({} if caching is None else {"prefix_caching": str(caching).lower() in ("on", "true")}),
        "engine_args": clean_args(arguments),
        "env": scrub_env({k: v for k, v in env.items() if not k.endswith(_FOLDERS)}),
        "image_digest": digests.pop() if len(digests) == 1 else None,
        "model_revision": started.get("revision") or spec.cell.revision,
        "neuron_sdk_version": neuron[1] if neuron else None,
        "spec_decoding": "none" if "speculative-config" not in started else "configured",
    }


def _labels(node: Object | None) -> dict[str, str]:
    return dict(((node or {}).get("metadata") or {}).get("labels") or {})


def _common(labels: Sequence[Mapping[str, str]], *names: str) -> str | None:
    """The one value all nodes have under the first of *names* that any of them has."""
    for name in names:
        values = {found[name] for found in labels if found.get(name)}
        if values:
            return ",".join(sorted(values))
    return None


def _dotted(labels: Sequence[Mapping[str, str]], prefix: str, *parts: str) -> str | None:
    values = {".".join(v for p in parts if (v := found.get(f"{prefix}.{p}"))) for found in labels} - {""}
    return ",".join(sorted(values)) or None


def _machine(node: Object) -> str:
    """What tells one machine from another: the instance id, else what the kubelet says of it."""
    info = status_of(node).get("nodeInfo") or {}
    provider = str((node.get("spec") or {}).get("providerID") or "")
    return provider or "|".join(filter(None, (info.get("machineID"), info.get("systemUUID"))))
