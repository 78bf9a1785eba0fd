"""Bytes of weights: as the checkpoint has them, or under another precision; resident, per rank, and read in a step.

Belongs here: the split into a dense part and experts, what a step reads, what a rank holds. Does not belong here: bits
and bytes of each scheme (``partitions.weights``, which the cell grid uses too), KV cache (``kv``), what else a rank
holds (``engine_memory``).

The best source is the checkpoint's own bytes (tensor headers or the index's ``total_size``, which the model's row
holds); the formula serves precisions that no checkpoint was read for. Embedding and output head stay at 16 bits in
AWQ, GPTQ, FP8 and INT8 checkpoints. All experts of a mixture are resident; only those drawn are read. Image towers are
resident and not read by a decode. Layers that predict further tokens are neither: vLLM skips them unless it decodes
speculatively (0.32, ``deepseek_v2.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from accelbench_assets.errors import UsageError
from accelbench_assets.sizing import kv
from partitions import weights as counts
from partitions.deployment import CellError
from partitions.rows import ModelRow
from partitions.weights import ALIASES, BITS, WIDE_BITS, quantised_bytes, table_parameters, tables

__all__ = [
    "ALIASES",
    "AT_LOAD",
    "BITS",
    "CHECKPOINT",
    "LOWER",
    "OTHER_CHECKPOINT",
    "Weights",
    "bytes_per_rank",
    "expert_parameters",
    "native",
    "quantised_bytes",
    "scheme",
    "table_parameters",
    "tables",
    "weights_of",
]

CHECKPOINT, AT_LOAD, OTHER_CHECKPOINT = "checkpoint", "at load", "another checkpoint"
LOWER = ("fp8", "int4")
"""What is tried below the checkpoint's precision, in this order. INT8 is as wide as FP8, no faster, and needs a
checkpoint of its own, so it is only taken where it is asked for."""
MADE_AT_LOAD = ("fp8",)
"""What vLLM makes of every layer of a 16-bit checkpoint while loading, on every GPU of the catalog (``loading``)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of one replica under one precision, in bytes over all ranks and parameters.

    ``total_bytes`` are resident. ``dense_bytes`` hold everything but experts and towers; ``expert_bytes`` are of one
    expert index over all layers; ``table_bytes`` the input table, of which a step looks up single rows (0 if it is the
    output head too). ``read_parameters`` are those a token multiplies with: without input table and towers.
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
    try:
        return counts.scheme(name)
    except CellError as error:
        raise UsageError(error.problem) from None


def native(model: ModelRow) -> str:
    """The scheme of the model's own checkpoint: ``bf16``, or what it is quantised to. Raises ``UsageError``."""
    try:
        return counts.native(model)
    except CellError as error:
        raise UsageError(error.problem) from None


def expert_parameters(model: ModelRow) -> float:
    """Parameters of one expert index over all layers; 0 for a dense model.

    Two counts give it: total and active parameters, and the shapes. The smaller is right: shapes count layers that
    may be dense, and published active counts may leave the input table out.
    """
    if not model.experts or not model.experts_per_token or model.experts == model.experts_per_token:
        return 0.0
    counted = (model.parameters - model.active_parameters) / (model.experts - model.experts_per_token)
    return min(counted, 3.0 * model.hidden_size * model.intermediate_size * model.layers)


def weights_of(model: ModelRow, precision: str | None = None) -> Weights:
    """The weights of *model* as its checkpoint has them, or in *precision*.

    FP8 of a 16-bit checkpoint is made while loading; INT8 and 4-bit schemes need a checkpoint of their own, whose
    bytes are then computed. Raises ``UsageError`` for an unknown precision, or one above a quantised checkpoint's.
    """
    own = native(model)
    name = own if precision is None else scheme(precision)
    if name == "fp8" and own == "fp8_block":
        name = own
    if name == own or (BITS[name] == WIDE_BITS and BITS[own] == WIDE_BITS):
        name, how, total = own, CHECKPOINT, model.resident_bytes
    elif BITS[name] >= BITS[own]:
        raise UsageError(f"{model.slug} is a {own} checkpoint; {name} would not make it smaller.")
    else:
        total = quantised_bytes(model, name)
        how = AT_LOAD if name in MADE_AT_LOAD and BITS[own] == WIDE_BITS else OTHER_CHECKPOINT
    each = expert_parameters(model)
    experts = (model.experts or 0) if each else 0
    expert_bytes = each * BITS[name] / 8
    untied = tables(model) == 2
    looked_up = table_parameters(model) if untied else 0
    dense = model.parameters - experts * each - model.tower_parameters
    return Weights(
        precision=name,
        how=how,
        bits=BITS[name],
        total_bytes=total,
        dense_bytes=total - experts * expert_bytes - model.tower_parameters * BITS[name] / 8,
        expert_bytes=expert_bytes,
        experts=experts,
        experts_per_token=(model.experts_per_token or 0) if experts else 0,
        table_bytes=round(looked_up * WIDE_BITS / 8),
        read_parameters=dense - looked_up + (model.experts_per_token or 0) * each,
    )


def bytes_per_rank(model: ModelRow, weights: Weights, tp: int) -> int:
    """Bytes of weights on one of *tp* ranks: its share, and what every rank holds whole.

    Whole are norms and routers, and the K and V projections as often as a KV head is kept. What MLA replicates of its
    down-projections is not in the model's row and is left out (about 1 GB a rank of DeepSeek-R1).
    """
    if tp == 1:
        return weights.total_bytes
    whole = (2 * model.layers + 1) * model.hidden_size + model.layers * model.hidden_size * (
        model.experts or 0
    )
    doubled = 0.0
    if model.attention_kind != "mla":
        projections = 2 * model.layers * model.hidden_size * model.kv_heads * model.head_dim
        doubled = projections * (kv.copies(model, tp) - 1) * weights.bits / 8
    replicated = whole * WIDE_BITS / 8
    return round((weights.total_bytes - replicated + doubled) / tp + replicated)
