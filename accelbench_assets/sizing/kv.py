"""Bytes of KV cache: per token, per block as vLLM lays them out, per sequence.

Belongs here: what each kind of attention keeps, how vLLM groups layers of different kinds, blocks of a sequence.
Does not belong here: how much memory is left for it (``engine_memory``).

MHA, GQA and MQA keep K and V of every KV head; with more ranks than KV heads every rank keeps one, so the sum grows.
Where ranks and KV heads do not divide, Neuron's library keeps one for every attention head and pads those
(``ModelRow.kv_heads_per_rank``; NxD Inference, ``modules/attention/gqa.py``). MLA keeps one latent vector, whole on
every rank. Layers with a sliding window keep the window and what is in flight.
The grouping follows vLLM 0.32's source (``v1/core/kv_cache_utils.py``): groups of equally many layers share one pool
of blocks, and a block holds one group's layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from accelbench_assets.errors import UsageError
from partitions.rows import ModelRow

BLOCK_TOKENS = 16
"""vLLM's default on CUDA; its CPU build takes 128."""
PADDING_LIMIT = 1.5  # above this ratio of layer counts vLLM makes several groups instead of padding one

VALUE_BYTES = {"auto": 2, "bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
"""Bytes of one cached value; ``auto`` is that of a 16-bit model."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share a block table. ``window`` null = full attention."""

    layers: int
    window: int | None


def value_bytes(kv_dtype: str) -> int:
    """Bytes of one value in *kv_dtype*. Raises ``UsageError``."""
    if kv_dtype not in VALUE_BYTES:
        raise UsageError(f"{kv_dtype!r} is not a KV cache type; known are {', '.join(VALUE_BYTES)}.")
    return VALUE_BYTES[kv_dtype]


def layer_bytes_per_rank(model: ModelRow, tp: int = 1, kv_dtype: str = "auto") -> int:
    """Bytes that one token costs in one layer on one of *tp* ranks."""
    return model.kv_values(tp) * value_bytes(kv_dtype)


def copies(model: ModelRow, tp: int) -> float:
    """How many times the KV cache of a token exists over *tp* ranks, at least 1: ``tp`` for MLA, ``tp / H_kv`` beyond
    one head, more where heads are padded.
    """
    return model.kv_heads_per_rank(tp) * tp / model.kv_heads


def bytes_per_token(model: ModelRow, tp: int = 1, kv_dtype: str = "auto") -> int:
    """Bytes over all ranks that one more token of a long sequence costs; windows no longer grow and are not counted."""
    return model.full_layers * layer_bytes_per_rank(model, tp, kv_dtype) * tp


def bytes_read(model: ModelRow, tokens: float, tp: int = 1, kv_dtype: str = "auto") -> float:
    """Bytes over all ranks that a decode step reads for one sequence of *tokens*; windows at most their length."""
    held = min(tokens, model.sliding_window) if model.sliding_window else tokens
    windows = (model.layers - model.full_layers) * held
    return (model.full_layers * tokens + windows) * layer_bytes_per_rank(model, tp, kv_dtype) * tp


def groups(model: ModelRow) -> tuple[Group, ...]:
    """The groups vLLM makes: one for a uniform model, otherwise of as many layers as the rarer kind has.

    The last group of a kind may be padded. Kinds of nearly equal number (less than 1.5 to 1) are padded to the larger.
    """
    full = model.full_layers
    local = model.layers - full
    if not model.sliding_window or not local:
        return (Group(model.layers, None),)
    if not full:
        return (Group(model.layers, model.sliding_window),)
    size, most = min(full, local), max(full, local)
    if most < size * PADDING_LIMIT:
        size = most
    return (
        *(Group(size, None) for _ in range(math.ceil(full / size))),
        *(Group(size, model.sliding_window) for _ in range(math.ceil(local / size))),
    )


def block_bytes(
    model: ModelRow, tp: int = 1, kv_dtype: str = "auto", block_tokens: int = BLOCK_TOKENS
) -> int:
    """Bytes of one block of the pool on one rank: all layers of a group, *block_tokens* tokens each."""
    return groups(model)[0].layers * layer_bytes_per_rank(model, tp, kv_dtype) * block_tokens


def blocks_per_sequence(
    model: ModelRow, tokens: int, *, in_flight: int = 0, block_tokens: int = BLOCK_TOKENS
) -> int:
    """Blocks that a sequence of *tokens* takes over all groups.

    A window holds ``window - 1`` tokens and those *in_flight* (scheduled, not settled), rounded up to blocks, plus one
    block, for it need not begin at a block's edge.
    """
    found = 0
    for group in groups(model):
        held = tokens if group.window is None else min(group.window - 1 + in_flight, tokens)
        found += math.ceil(held / block_tokens) + (group.window is not None)
    return found


def longest(model: ModelRow, blocks: int, *, in_flight: int = 0, block_tokens: int = BLOCK_TOKENS) -> int:
    """The longest sequence, a multiple of a block, whose cache *blocks* can hold; at most the model's positions."""
    most = model.max_position_embeddings
    if blocks_per_sequence(model, most, in_flight=in_flight, block_tokens=block_tokens) <= blocks:
        return most
    low, high = 0, most // block_tokens + 1  # in blocks: low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        need = blocks_per_sequence(
            model, middle * block_tokens, in_flight=in_flight, block_tokens=block_tokens
        )
        low, high = (middle, high) if need <= blocks else (low, middle)
    return low * block_tokens
