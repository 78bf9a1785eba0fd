"""Bytes of weights: as the checkpoint has them, or under another precision; resident, per rank, and read in a step.

Belongs here: bits per weight of each scheme, which parameters a scheme leaves at 16 bits, the split into a dense
part and experts. Does not belong here: KV cache (``kv``), what else a rank holds (``engine_memory``).

The best source is the checkpoint's own bytes (tensor headers or the index's ``total_size``, which the model's row
holds); the formula serves precisions that no checkpoint was read for. Embedding and output head stay at 16 bits in
AWQ, GPTQ, FP8 and INT8 checkpoints. All experts of a mixture are resident; only those drawn are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelbench_assets.errors import UsageError
from partitions.rows import ModelRow

CHECKPOINT, AT_LOAD, OTHER_CHECKPOINT = "checkpoint", "at load", "another checkpoint"
WIDE_BITS = 16.0

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

ALIASES = {"awq": "int4", "gptq": "int4", "awq_marlin": "int4", "gptq_marlin": "int4", "none": "bf16"}
LOWER = ("fp8", "int8", "int4")
"""What is tried below the checkpoint's precision, in this order."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of one replica under one precision, in bytes over all ranks and parameters.

    ``dense_bytes`` hold everything but experts; ``expert_bytes`` are of one expert index over all layers;
    ``table_bytes`` the input table, of which a step looks up single rows (0 if it is the output head too).
    ``read_parameters`` are those a token multiplies with, so without the input table.
    """

    precision: str
    how: str
    bits: float
    total_bytes: int
    dense_bytes: float
    expert_bytes: float
    experts: int
    experts_per_token: int
    table_bytes: int
    read_parameters: float

    def read_bytes(self, tokens: float) -> float:
        """Bytes of weights that a step over *tokens* reads: dense part and the distinct experts expected."""
        return self.dense_bytes - self.table_bytes + self.distinct_experts(tokens) * self.expert_bytes

    def distinct_experts(self, tokens: float) -> float:
        """``E (1 - (1 - k/E)^B)``: experts drawn at least once by *tokens* independent tokens."""
        if not self.experts:
            return 0.0
        missed = (1 - self.experts_per_token / self.experts) ** float(tokens)
        return float(self.experts * (1 - missed))


def scheme(name: str) -> str:
    """The name of ``BITS`` that *name* stands for. Raises ``UsageError`` naming the known ones."""
    found = ALIASES.get(name, name)
    if found not in BITS:
        raise UsageError(f"{name!r} is not a known precision; known are {', '.join((*BITS, *ALIASES))}.")
    return found


def native(model: ModelRow) -> str:
    """The scheme of the model's own checkpoint: ``bf16``, or what it is quantised to."""
    if model.quantization == "none":
        return scheme(model.dtype)
    # The FP8 checkpoints of mixtures are scaled by blocks of 128 x 128 (DeepSeek's format).
    return "fp8_block" if model.quantization == "fp8" and model.experts else scheme(model.quantization)


def tables(model: ModelRow) -> int:
    """Matrices of vocabulary x width: 2, or 1 where the output head is the input table.

    Read off the parameter count: what the layers leave over is either one such matrix or two. MLA's shapes are not in
    the row; its models do not tie.
    """
    if model.attention_kind == "mla":
        return 2
    heads = 2 * model.hidden_size * model.head_dim * (model.attention_heads + model.kv_heads)
    width = 3 * model.hidden_size * model.intermediate_size * (model.experts or 1)
    left = model.parameters - model.layers * (heads + width)
    return 2 if left > 1.5 * table_parameters(model) else 1


def table_parameters(model: ModelRow) -> int:
    """Parameters of one matrix of vocabulary x width."""
    return model.vocab_size * model.hidden_size


def expert_parameters(model: ModelRow) -> float:
    """Parameters of one expert index over all layers; 0 for a dense model.

    Two counts give it: total and active parameters, and the shapes. The smaller is right: shapes count layers that
    may be dense, and published active counts may leave the input table out.
    """
    if not model.experts or not model.experts_per_token or model.experts == model.experts_per_token:
        return 0.0
    counted = (model.parameters - model.active_parameters) / (model.experts - model.experts_per_token)
    return min(counted, 3.0 * model.hidden_size * model.intermediate_size * model.layers)


def quantised_bytes(model: ModelRow, name: str) -> int:
    """Bytes of *model* with its linear layers in scheme *name*, input table and output head at 16 bits."""
    wide = tables(model) * table_parameters(model)
    return round(wide * WIDE_BITS / 8 + (model.parameters - wide) * BITS[scheme(name)] / 8)


def weights_of(model: ModelRow, precision: str | None = None) -> Weights:
    """The weights of *model* as its checkpoint has them, or in *precision*.

    FP8 and INT8 of a 16-bit checkpoint are made while loading; 4-bit schemes need a checkpoint of their own, whose
    bytes are then computed. Raises ``UsageError`` for an unknown precision, or one above a quantised checkpoint's.
    """
    own = native(model)
    name = own if precision is None else scheme(precision)
    if name == "fp8" and own == "fp8_block":
        name = own
    if name == own or (BITS[name] == WIDE_BITS and BITS[own] == WIDE_BITS):
        name, how, total = own, CHECKPOINT, model.weight_bytes
    elif BITS[name] >= BITS[own]:
        raise UsageError(f"{model.slug} is a {own} checkpoint; {name} would not make it smaller.")
    else:
        total = quantised_bytes(model, name)
        how = AT_LOAD if name in ("fp8", "int8") and BITS[own] == WIDE_BITS else OTHER_CHECKPOINT
    each = expert_parameters(model)
    experts = (model.experts or 0) if each else 0
    expert_bytes = each * BITS[name] / 8
    untied = tables(model) == 2
    looked_up = table_parameters(model) if untied else 0
    dense = model.parameters - experts * each
    return Weights(
        precision=name,
        how=how,
        bits=BITS[name],
        total_bytes=total,
        dense_bytes=total - experts * expert_bytes,
        expert_bytes=expert_bytes,
        experts=experts,
        experts_per_token=(model.experts_per_token or 0) if experts else 0,
        table_bytes=round(looked_up * WIDE_BITS / 8),
        read_parameters=dense - looked_up + (model.experts_per_token or 0) * each,
    )


def bytes_per_rank(model: ModelRow, weights: Weights, tp: int) -> int:
    """Bytes of weights on one of *tp* ranks: its share, and what every rank holds whole.

    Whole are norms and routers, and the K and V projections beyond one KV head a rank. What MLA replicates of its
    down-projections is not in the model's row and is left out (about 1 GB a rank of DeepSeek-R1).
    """
    if tp == 1:
        return weights.total_bytes
    whole = (2 * model.layers + 1) * model.hidden_size + model.layers * model.hidden_size * (
        model.experts or 0
    )
    doubled = 0.0
    if model.attention_kind != "mla" and tp > model.kv_heads:
        projections = 2 * model.layers * model.hidden_size * model.kv_heads * model.head_dim
        doubled = projections * (tp / model.kv_heads - 1) * weights.bits / 8
    replicated = whole * WIDE_BITS / 8
    return round((weights.total_bytes - replicated + doubled) / tp + replicated)
