"""Which image serves a cell: vLLM for GPUs here, vLLM for Neuron in ``images_neuron``.

Belongs here: the choice by the accelerator of the cell's instance, and the GPU flavour.
Does not belong here: what images have in common (``container``), objects of Kubernetes (``launch.manifests``).
"""

from __future__ import annotations

from accelbench_assets.engines.container import CACHE, ContainerEngine, instance_of
from accelbench_assets.engines.images_neuron import VllmNeuronImage
from accelbench_assets.errors import LaunchError
from partitions.cell import BenchmarkCell

__all__ = ["CACHE", "ContainerEngine", "VllmImage", "VllmNeuronImage", "container_engine"]


class VllmImage(ContainerEngine):
    """``vllm/vllm-openai``: its user is root, and it holds Run:ai's model streamer.

    The server is started as a module: ``vllm serve``, the entry point of recent images, no longer wants ``--model``.
    """

    flavour = "vllm"
    device = "nvidia.com/gpu"
    taint = "nvidia.com/gpu"
    command = ("python3", "-m", "vllm.entrypoints.openai.api_server")
    streams_from_s3 = True

    def public_image(self, version: str) -> str:
        """The release's tag."""
        return f"vllm/vllm-openai:v{version}"


_FLAVOURS: dict[str, ContainerEngine] = {"gpu": VllmImage(), "neuron": VllmNeuronImage()}


def container_engine(cell: BenchmarkCell) -> ContainerEngine:
    """The flavour that serves *cell*.

    Raises ``LaunchError`` (``unsupported``): an engine without image, or an instance without row.
    """
    if cell.engine != "vllm":
        raise LaunchError(
            f"Engine {cell.engine} has no image; on Kubernetes there is vllm.", code="unsupported"
        )
    return _FLAVOURS[instance_of(cell).accelerator_kind]
