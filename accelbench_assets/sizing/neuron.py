"""Rules of NeuronCores: which engine serves which chip, and over how many cores.

Belongs here: support by (chip, SDK, engine version) and the counts of ranks in use. Does not belong here: images and
arguments (``engines.images_neuron``), memory (``engine_memory``).

Facts of AWS's Neuron documentation (SDK 2.28 to 2.34, November 2026): NxD Inference is in maintenance, its kernels left
Inf2 and Trn1 at 2.29 and its support of Trn2 ends at 2.34; the vLLM-Neuron plugin (from vLLM 0.21) serves Trn2 and
later only. The unit of tensor parallelism is the logical core: 16 GiB on Inf2 and Trn1, 24 GiB on Trn2 at LNC 2.
"""

from __future__ import annotations

import re

from accelbench_assets.engines.images_neuron import FIRST_PLUGIN_VLLM, vllm_of
from partitions.rows import AcceleratorRow, InstanceRow

VERSIONS = {
    "inferentia2": "0.13-neuron2.28",
    "trainium1": "0.13-neuron2.28",
    "trainium2": "0.24.0-neuron2.32",
}
"""What is sized for where the caller names no version."""

RANKS = {
    "inferentia2": (1, 2, 4, 8, 12, 24),
    "trainium1": (1, 2, 8, 16, 32),
    "trainium2": (4, 8, 16, 32, 64),  # whole chips at LNC 2: 4 logical cores each
}
"""Counts of ranks seen in published use; others may compile, but nobody is known to run them."""

PLUGIN_CHIPS = ("trainium2",)
LAST_OLD_SDK, FIRST_WITHOUT_NXD = (2, 28), (2, 34)


def sdk_of(version: str) -> tuple[int, int]:
    """The SDK in an engine version ``0.13-neuron2.28``: (2, 28). Raises ``LaunchError`` (``bad_config``)."""
    vllm_of(version)
    numbers = re.findall(r"\d+", version.partition("-neuron")[2])
    return int(numbers[0]), int(numbers[1])


def not_served(chip: AcceleratorRow, version: str) -> str | None:
    """Why vLLM *version* does not serve on *chip*; None if it does. Raises ``LaunchError`` for a foreign version."""
    sdk = sdk_of(version)
    if vllm_of(version) >= FIRST_PLUGIN_VLLM:
        if chip.id in PLUGIN_CHIPS:
            return None
        return (
            f"vLLM {version} is the plugin for Trn2 and later; {chip.id} stays at {VERSIONS['inferentia2']}"
        )
    if chip.id not in PLUGIN_CHIPS and sdk > LAST_OLD_SDK:
        return (
            f"NxD Inference of SDK {sdk[0]}.{sdk[1]} has no kernels for {chip.id}; the last with them is 2.28"
        )
    if sdk >= FIRST_WITHOUT_NXD:
        return f"NxD Inference ended at SDK 2.34; for {chip.id} take {VERSIONS['trainium2']}"
    return None


def ranks(instance: InstanceRow) -> tuple[int, ...]:
    """Counts of ranks to try on *instance*, ascending."""
    known = RANKS.get(instance.accelerator.id, (1, 2, 4, 8, 16, 32, 64))
    return tuple(n for n in known if n <= instance.tp_ranks)
