"""Bytes of a model's weights at a precision: the one count that the cell grid and sizing share.

Belongs here: bits per weight of each scheme, which parameters a scheme leaves at 16 bits, what is loaded for a
deployment. Does not belong here: what a rank holds, what a step reads, which precision is worth trying
(``accelbench_assets.sizing``).

A checkpoint's own bytes are best; the formula serves precisions that no checkpoint was read for. Input table and output
head stay at 16 bits in AWQ, GPTQ, FP8 and INT8 checkpoints.
"""

from __future__ import annotations

from partitions.deployment import CellError
from partitions.rows import ModelRow

WIDE_BITS = 16.0
FEWEST_BITS = 4.0

BITS = {
    "fp32": 32.0,
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,  # a scale per tensor or channel is negligible
    "fp8_block": 8 + 32 / (128 * 128),
    "int8": 8.0,
    "int4": 4 + 16 / 128 + 4 / 128,  # AWQ and GPTQ, groups of 128: a 16-bit scale and a 4-bit zero each
    "int4_g32": 4 + 16 / 32 + 4 / 32,
    "nf4": 4 + 32 / 64,
    "nf4_double": 4 + 8 / 64 + 32 / (64 * 256),
    "mxfp4": 4 + 8 / 32,
    "nvfp4": 4 + 8 / 16,
    "q4_0": 18 * 8 / 32,
    "q4_1": 20 * 8 / 32,
    "q8_0": 34 * 8 / 32,
    "q6_k": 210 * 8 / 256,
    "q4_k": 144 * 8 / 256,
}
"""Bits per weight with scales and zeros."""

ALIASES = {
    **{"awq": "int4", "gptq": "int4", "awq_marlin": "int4", "gptq_marlin": "int4", "none": "bf16"},
    **{"fp8_per_tensor": "fp8", "fp8_per_channel": "fp8", "fp8_per_block": "fp8"},
}


def scheme(name: str) -> str:
    """The name of ``BITS`` that *name* stands for. Raises ``CellError`` naming the known ones."""
    found = ALIASES.get(name, name)
    if found not in BITS:
        known = ", ".join((*BITS, *ALIASES))
        raise CellError("quantization", f"{name!r} is not a known precision; known are {known}.")
    return found


def native(model: ModelRow) -> str:
    """The scheme of the model's own checkpoint: ``bf16``, or what it is quantised to. Raises ``CellError``."""
    if model.quantization == "none":
        return scheme(model.dtype)
    # The FP8 checkpoints of mixtures are scaled by blocks of 128 x 128 (DeepSeek's format).
    return "fp8_block" if model.quantization == "fp8" and model.experts else scheme(model.quantization)


def table_parameters(model: ModelRow) -> int:
    """Parameters of one matrix of vocabulary x width."""
    return model.vocab_size * model.hidden_size


def tables(model: ModelRow) -> int:
    """Matrices of vocabulary x width: 2, or 1 where the output head is the input table.

    Read off the parameter count: what layers and towers leave over is either one such matrix or two. MLA's shapes are
    not in the row; its models do not tie.
    """
    if model.attention_kind == "mla":
        return 2
    heads = 2 * model.hidden_size * model.head_dim * (model.attention_heads + model.kv_heads)
    width = 3 * model.hidden_size * model.intermediate_size * (model.experts or 1)
    left = model.parameters - model.tower_parameters - model.layers * (heads + width)
    return 2 if left > 1.5 * table_parameters(model) else 1


def quantised_bytes(model: ModelRow, name: str) -> int:
    """Bytes of *model* with its linear layers in scheme *name*, input table and output head at 16 bits.

    Raises ``CellError`` for an unknown scheme.
    """
    wide = tables(model) * table_parameters(model)
    return round(wide * WIDE_BITS / 8 + (model.parameters - wide) * BITS[scheme(name)] / 8)


def served_bytes(model: ModelRow, quantization: str) -> int:
    """Bytes over all ranks that are loaded for *model* under a deployment's *quantization*.

    The checkpoint's own, without what only speculative decoding loads, unless the deployment has fewer bits: then those
    of the checkpoint it needs are computed. Of a method whose name does not tell its bits (``bitsandbytes``,
    ``compressed-tensors``, experts only) the fewest are counted.
    """
    try:
        wanted = BITS[scheme(quantization)]
    except CellError:
        return min(model.resident_bytes, round(model.parameters * FEWEST_BITS / 8))
    # Whole bits: scales apart, fp8 is no lower than a checkpoint of block fp8, nor int4 than mxfp4.
    if round(wanted) >= round(BITS[native(model)]):
        return model.resident_bytes
    return min(model.resident_bytes, quantised_bytes(model, quantization))
