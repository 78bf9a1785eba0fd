"""What an engine needs as a container, and what all vLLM images have in common.

Belongs here: the base class of the flavours: image reference, arguments, environment, resources, checks of a cell
against an instance. Does not belong here: one flavour's own (``images``, ``images_neuron``), objects of Kubernetes
(``launch.manifests``).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from accelbench_assets.engines.vllm_args import vllm_arguments
from accelbench_assets.errors import LaunchError
from accelbench_assets.sizing import loading
from partitions.catalog import load_instances, load_models
from partitions.cell import BenchmarkCell
from partitions.rows import InstanceRow, ModelRow

CACHE = "/cache"
"""Where a pod keeps weights and compiled code: the node's disk, or a volume that outlives it."""
POD_IP = "$(POD_IP)"
"""Kubernetes replaces it: an address of the pod and nothing else, so that a second pod network stays closed."""
REQUEST_SHARE = 75
"""Percent of an instance's processors and memory a server asks for. The rest is what the node does not give out
(kernel, kubelet, eviction margin, Karpenter's 7.5 % for the hypervisor: 14 % of a 16 GiB node) and its daemonsets."""
LIMIT_SHARE = 85
"""Percent of an instance's memory at which a server is stopped: beyond it the node itself would suffer."""

_IMAGE = re.compile(
    r"[a-z0-9][a-z0-9._/-]*(:[0-9]+/[a-z0-9._/-]+)?(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


class ContainerEngine(ABC):
    """vLLM in an image; a flavour says the rest. Instances hold no state."""

    flavour: str
    device: str
    """The resource that stands for one accelerator."""
    taint: str
    """Key of the taint of nodes with these accelerators; value ``true``, effect NoSchedule."""
    command: tuple[str, ...] = ()
    """Empty: the image's own entry point takes the arguments."""
    drop_capabilities = True
    streams_from_s3 = False
    port = 8000
    health_path = "/health"
    metrics_path = "/metrics"

    def image(self, version: str, overrides: Mapping[str, str]) -> str:
        """Image of engine *version*: *overrides* of ``FLAVOUR@VERSION``, then of ``FLAVOUR``, then the public one.

        ``{version}`` in an override is replaced. Raises ``LaunchError`` (``bad_config``).
        """
        pattern = overrides.get(f"{self.flavour}@{version}") or overrides.get(self.flavour)
        found = pattern.replace("{version}", version) if pattern else self.public_image(version)
        if not _IMAGE.fullmatch(found):
            raise LaunchError(
                f"{found!r} is not the name of an image.",
                code="bad_config",
                hint=f"Set kube.engine_images for {self.flavour}.",
            )
        return found

    @abstractmethod
    def public_image(self, version: str) -> str:
        """The image the project behind the engine publishes."""

    def args(self, cell: BenchmarkCell, model: str, revision: str | None, served_name: str) -> list[str]:
        """The server's arguments. *model* is a repository of the Hub or an ``s3://`` folder, *revision* its commit.

        Raises ``LaunchError``: ``does_not_fit``, ``unsupported``, ``wrong_weights``, ``bad_config``.
        """
        check_ranks(cell)
        found = ["--model", model, "--served-model-name", served_name]
        if revision is not None:
            found += ["--revision", revision]
        if model.startswith("s3://"):
            found += ["--load-format", "runai_streamer"]
        found += ["--host", POD_IP, "--port", str(self.port)]
        return found + vllm_arguments(cell.deployment, quantize_to=quantize_to(cell)) + self.more_args(cell)

    def more_args(self, cell: BenchmarkCell) -> list[str]:
        """Arguments that only this flavour has."""
        return []

    def env(self, cell: BenchmarkCell) -> dict[str, str]:
        """Variables of the server; nothing secret."""
        return {
            "HF_HOME": f"{CACHE}/huggingface",
            "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
            "XDG_CACHE_HOME": f"{CACHE}/xdg",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def resources(self, row: InstanceRow) -> dict[str, Any]:
        """Requests and limits that fill one instance: all its accelerators and the share of the rest.

        No limit on processors: throttling the engine's scheduler would be measured as the accelerator's slowness.
        """
        devices = {self.device: str(row.accelerator_count)}
        return {
            "requests": {
                "cpu": f"{row.vcpu * 1000 * REQUEST_SHARE // 100}m",
                "memory": f"{row.memory_mib * REQUEST_SHARE // 100}Mi",
                **devices,
            },
            "limits": {"memory": f"{row.memory_mib * LIMIT_SHARE // 100}Mi", **devices},
        }


def instance_of(cell: BenchmarkCell) -> InstanceRow:
    """The row of the cell's instance; ``LaunchError`` (``unsupported``) if there is none."""
    row = load_instances().get(cell.instance)
    if row is None:
        raise LaunchError(
            f"{cell.instance} has no row in instances.yaml, so its accelerators are not known.",
            code="unsupported",
            hint="Add the row; local and endpoint cells are launched without Kubernetes.",
        )
    return row


def model_of(cell: BenchmarkCell) -> ModelRow | None:
    """The row of the cell's model, if the catalog has it."""
    return load_models().get(cell.model)


def check_ranks(cell: BenchmarkCell) -> None:
    """Raise ``LaunchError`` (``does_not_fit``) when one replica needs more ranks than one instance has."""
    row, deployment = instance_of(cell), cell.deployment
    needed = deployment.tp * deployment.pp * deployment.dp
    if needed > row.tp_ranks:
        raise LaunchError(
            f"One replica needs {needed} ranks, and {cell.instance} has {row.tp_ranks}.",
            code="does_not_fit",
            hint="A replica runs on one instance: lower tp, pp or dp, or take a bigger instance.",
        )


def quantize_to(cell: BenchmarkCell) -> str | None:
    """vLLM's name of what weights must be quantised to while loading; ``None`` when the checkpoint is as the cell says.

    Raises ``LaunchError`` (``wrong_weights``) when a checkpoint that comes quantised is asked for otherwise: vLLM
    would take the checkpoint's method, and the result would stand under a key that names another. And when a 16-bit
    checkpoint is asked for what vLLM does not make of it: the server would refuse to start.
    """
    wanted, row = cell.deployment.quantization, model_of(cell)
    known = row if row is not None and row.revision == cell.revision[:7] else None
    held = known.quantization if known is not None else "none"
    if wanted == held:
        return None
    if held != "none":
        raise LaunchError(
            f"The checkpoint of {cell.model} is {held}, and the cell says {wanted}.",
            code="wrong_weights",
            hint=f"Benchmark a cell that says quantization {held}.",
        )
    chip = instance_of(cell).accelerator
    if chip.kind == "gpu":  # Neuron quantises by a configuration of its own
        if reason := loading.not_made(wanted, known, chip):
            raise LaunchError(
                f"The cell says {wanted}, and the checkpoint of {cell.model} is not quantised: {reason}.",
                code="wrong_weights",
                hint="Benchmark a cell that says none or fp8, or add the quantised checkpoint as a model of its own.",
            )
        return loading.flag(wanted, cell.engine_version)
    return wanted
