"""Over how many ranks a model divides, and what to be wary of.

Belongs here: counts of tensor-parallel ranks to try, why one is impossible, warnings. Does not belong here: memory.
Heads, KV heads, widths and positions are checked by ``partitions.matrix``, which the cell grid uses too; this adds
what depends on how the weights are quantised.
"""

from __future__ import annotations

from dataclasses import replace

from accelbench_assets.sizing import neuron
from accelbench_assets.sizing.weights import Weights
from partitions.deployment import Deployment
from partitions.matrix import why_not
from partitions.rows import InstanceRow, ModelRow

GROUP = 128
"""Columns that share a scale in AWQ, GPTQ (g128) and block FP8: a rank must hold whole groups."""
GROUPED = ("int4", "fp8_block")
FOREIGN = ("nf4", "nf4_double", "q4_0", "q4_1", "q8_0", "q6_k", "q4_k")
"""Schemes of bitsandbytes and GGUF."""
_BOUNDLESS_MIB = 2**40


def tensor_parallel(instance: InstanceRow) -> tuple[int, ...]:
    """Counts to try on *instance*, ascending: powers of two on GPUs, those seen in use on Neuron."""
    if instance.accelerator_kind == "neuron":
        return neuron.ranks(instance)
    return tuple(2**n for n in range(instance.tp_ranks.bit_length()) if 2**n <= instance.tp_ranks)


def undividable(
    model: ModelRow, instance: InstanceRow, weights: Weights, tp: int, max_model_len: int
) -> str | None:
    """Why *model* cannot be spread over *tp* ranks of *instance*, whatever the memory; None if it can."""
    boundless = replace(instance, accelerator=replace(instance.accelerator, memory_mib=_BOUNDLESS_MIB))
    if reason := why_not(model, boundless, Deployment(tp=tp, max_model_len=max_model_len)):
        return reason
    if weights.precision in GROUPED and instance.accelerator_kind == "gpu":
        share = model.intermediate_size // tp
        if share % GROUP:
            return f"a rank's share of the feed-forward width is {share}, no multiple of the {GROUP} that share a scale"
    return None


def warnings(model: ModelRow, instance: InstanceRow, weights: Weights, tp: int) -> tuple[str, ...]:
    """What does not forbid a choice and should be known, each as one sentence."""
    chip, found = instance.accelerator, []
    if chip.kind == "neuron":
        if model.kv_heads % tp and tp % model.kv_heads:
            found.append(
                f"{model.kv_heads} KV heads and {tp} ranks do not divide: the Neuron library keeps "
                f"{tp * model.kv_heads_per_rank(tp)}, one for each attention head, and pads them."
            )
        elif model.attention_heads % tp:
            found.append(f"Heads do not divide by {tp} ranks: the Neuron library pads them.")
        if weights.how != "checkpoint" or weights.bits < 16:
            found.append(f"Whether Neuron's engine serves {weights.precision} weights was not verified.")
        found.append("Neuron compiles batch and lengths: the concurrency found is the batch to compile.")
    elif chip.interconnect.startswith("PCIe") and tp > 2:
        found.append(f"{tp} ranks talk over PCIe: all-reduces add to every step.")
    if chip.kind == "gpu" and weights.precision in ("fp8", "fp8_block") and chip.fp8_tflops is None:
        found.append("No FP8 units here: weights are widened to 16 bits before they are multiplied.")
    if chip.kind == "gpu" and weights.precision in FOREIGN:
        found.append(
            f"vLLM has had no method of its own for {weights.precision} weights since 0.32 at the latest."
        )
    if weights.how == "another checkpoint":
        found.append(
            f"Needs a {weights.precision} checkpoint of this model; its bytes are computed, not read."
        )
    return tuple(found)
