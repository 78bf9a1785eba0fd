"""vLLM on Neuron: two generations of images, told apart by the version of vLLM.

Belongs here: image tags, arguments and environment of vLLM on Inferentia2 and Trainium.
Does not belong here: what images have in common (``container``).

Up to vLLM 0.16 its images serve by NxD Inference (Inf2, Trn1, Trn2); from 0.21 on by the vLLM-Neuron plugin, for Trn2
and later only. Facts are from AWS's Neuron documentation of SDK 2.28.1 and 2.32.0 (quick starts of the containers and
of serving, configuration reference, NeuronX runtime variables, logical NeuronCores). Neither generation was run by
this project: there was no such instance.
"""

from __future__ import annotations

import re

from accelbench_assets.engines.container import CACHE, ContainerEngine, instance_of, quantize_to
from accelbench_assets.engines.vllm_args import argument_names
from accelbench_assets.errors import LaunchError
from partitions.cell import BenchmarkCell

REPOSITORY = "public.ecr.aws/neuron/pytorch-inference-vllm-neuronx"
TAGS = {
    "0.13-neuron2.28": "0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04",
    "0.24.0-neuron2.32": "0.24.0.1.1.0-neuronx-py313-sdk2.32.0-ubuntu24.04",
}
"""Tags name Python and Ubuntu too, so they do not follow from a version: a new one is a line here or an override."""
FIRST_PLUGIN_VLLM = (0, 21)
PLUGIN_FAMILIES = ("trn2",)

_VERSION = re.compile(r"([0-9]+)\.([0-9]+)[0-9a-z.]*-neuron[0-9]+\.[0-9]+(\.[0-9]+)?")


class VllmNeuronImage(ContainerEngine):
    """AWS's vLLM container for Neuron."""

    flavour = "vllm-neuron"
    device = "aws.amazon.com/neuron"
    taint = "aws.amazon.com/neuron"
    # The images' entry point is a wrapper of AWS's own; both generations document this module as the server.
    command = ("python3", "-m", "vllm.entrypoints.openai.api_server")
    # AWS runs these images with capabilities added (SYS_ADMIN, IPC_LOCK), which a `baseline` namespace refuses. Whether
    # they start without those the runtime gives by default could not be tried, so that set is left alone.
    drop_capabilities = False

    def public_image(self, version: str) -> str:
        """AWS's image of that vLLM and SDK."""
        vllm_of(version)
        if version not in TAGS:
            raise LaunchError(
                f"No image is known for {version}; known are {', '.join(TAGS)}.",
                code="bad_config",
                hint=f"Set kube.engine_images to {{'vllm-neuron@{version}': '{REPOSITORY}:TAG'}}.",
            )
        return f"{REPOSITORY}:{TAGS[version]}"

    def more_args(self, cell: BenchmarkCell) -> list[str]:
        """What the generation needs said; raises ``LaunchError`` (``unsupported``) for what it does not have."""
        deployment, free = cell.deployment, argument_names(cell.deployment)
        plugin = is_plugin(cell)
        if quantize_to(cell) is not None and "additional-config" not in free:
            raise LaunchError(
                f"vLLM on Neuron quantises by its own configuration, and the cell only says "
                f"{deployment.quantization}.",
                code="unsupported",
                hint="Give the cell's args an additional-config with the Neuron quantization.",
            )
        if plugin:
            return []
        # NxD Inference keeps a contiguous KV cache unless a block layout is configured, and prefix caching and chunked
        # prefill need that layout. AWS's quick start switches both off, where vLLM's own default is on.
        found = []
        if deployment.prefix_caching and "additional-config" not in free:
            raise LaunchError(
                "Prefix caching on NxD Inference needs a block layout of the KV cache.",
                code="unsupported",
                hint="Give the cell's args an additional-config with is_block_kv_layout and is_prefix_caching.",
            )
        if deployment.prefix_caching is None:
            found += ["--no-enable-prefix-caching"]
        if not free & {"enable-chunked-prefill", "no-enable-chunked-prefill"}:
            found += ["--no-enable-chunked-prefill"]
        return found

    def env(self, cell: BenchmarkCell) -> dict[str, str]:
        """NeuronCores of the deployment, logical cores where chips have them, and where compiled code is kept."""
        chip, deployment = instance_of(cell).accelerator, cell.deployment
        cores = deployment.tp * deployment.pp * deployment.dp
        found = super().env(cell)
        if (logical := (chip.neuron_cores or chip.tp_ranks) // chip.tp_ranks) > 1:
            found["NEURON_LOGICAL_NC_CONFIG"] = str(logical)
        found["NEURON_COMPILE_CACHE_URL"] = f"{CACHE}/neuron/compile"
        if is_plugin(cell):
            # Without EFA on the host the plugin refuses to start unless told so; one instance needs none.
            found["NEURON_SKIP_EFA_AFFINITY"] = "1"
        else:
            # How the plugin deals cores out to its workers is not documented, so it sees all, the runtime's default.
            found["NEURON_RT_NUM_CORES"] = str(cores)
        if deployment.replicas == 1:  # two writers of one folder would tear it
            found["NEURON_COMPILED_ARTIFACTS"] = f"{CACHE}/neuron/{artifact_key(cell)}"
        return found


def vllm_of(version: str) -> tuple[int, int]:
    """The vLLM in an engine version ``0.13-neuron2.28``: (0, 13). Raises ``LaunchError`` (``bad_config``)."""
    if found := _VERSION.fullmatch(version):
        return int(found[1]), int(found[2])
    raise LaunchError(
        f"{version} is not a version of vLLM on Neuron.",
        code="bad_config",
        hint="Its form is VLLM-neuronSDK, such as 0.13-neuron2.28.",
    )


def is_plugin(cell: BenchmarkCell) -> bool:
    """Whether the vLLM-Neuron plugin serves *cell*; ``LaunchError`` (``unsupported``) on chips it does not know."""
    plugin = vllm_of(cell.engine_version) >= FIRST_PLUGIN_VLLM
    if plugin and cell.family not in PLUGIN_FAMILIES:
        raise LaunchError(
            f"vLLM {cell.engine_version} is the plugin for Trn2 and later, and does not serve {cell.instance}.",
            code="unsupported",
            hint="Inf2 and Trn1 stay on vLLM 0.13 to 0.16, such as 0.13-neuron2.28.",
        )
    return plugin


def artifact_key(cell: BenchmarkCell) -> str:
    """Folder name of compiled code: all that compiling depends on, and nothing of the workload."""
    key = cell.key
    return f"{key.model}-{key.revision[:7]}-{key.instance}-{key.engine_version}-{key.digest}"
