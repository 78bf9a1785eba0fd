"""What no engine can beat: the least work of a decode step and of a prefill, and the ceiling it makes.

Belongs here: lower bounds of bytes and FLOP. Does not belong here: the highest rates of a chip and what is expected of
an engine (``roofline``, ``estimate``).

Where ``roofline`` counts what an engine is expected to do, this counts what it cannot avoid, so that a ceiling is never
too low: of a mixture only one token's experts are drawn (equal prompts draw equal experts), cache is read once however
many ranks keep a copy, a window only as far as it is filled, the output head is multiplied once a prompt, and weights
that no checkpoint was read for have their bare bits, head included. Never counted: image towers, rows of the input
table, layers that predict further tokens. Held to be true: sequences share no prefix, and a step yields one token of
each (no speculative decoding).
"""

from __future__ import annotations

import math

from accelbench_assets.sizing import kv
from accelbench_assets.sizing.roofline import MLA_PREFILL_HEAD, Replica
from accelbench_assets.sizing.weights import CHECKPOINT
from partitions.weights import table_parameters


def least_weight_bytes(one: Replica) -> float:
    """Bytes of weights that a step of any size reads at least: the dense part and one token's experts."""
    weights = one.weights
    if weights.how != CHECKPOINT:
        return weights.read_parameters * math.floor(weights.bits) / 8
    drawn = weights.experts_per_token * weights.expert_bytes
    return weights.dense_bytes - weights.table_bytes + drawn


def least_cache_bytes(one: Replica, isl: float, osl: float = 0.0) -> float:
    """Bytes of cache that a step reads at least for one sequence, on average while it grows from *isl* by *osl*."""
    model = one.model
    full = model.full_layers
    windows = (model.layers - full) * _mean_held(model.sliding_window, isl, isl + osl)
    return (full * (isl + osl / 2) + windows) * kv.layer_bytes_per_rank(model, 1, one.kv_dtype)


def _mean_held(window: int | None, low: float, high: float) -> float:
    """Mean of ``min(length, window)`` over lengths from *low* to *high*."""
    if not window or high <= window:
        return (low + high) / 2
    if low >= window:
        return float(window)
    return ((window**2 - low**2) / 2 + window * (high - window)) / (high - low)


def least_prefill_flop(one: Replica, tokens: float) -> float:
    """FLOP of a prompt of *tokens* at least: causal attention, exact windows, the output head for one token."""
    model = one.model
    width = MLA_PREFILL_HEAD if model.attention_kind == "mla" else model.head_dim
    full, window = model.full_layers, model.sliding_window or 0
    seen = tokens * tokens / 2
    within = seen if tokens <= window else window * tokens - window * window / 2
    pairs = full * seen + (model.layers - full) * within
    head = table_parameters(model)
    products = (one.weights.read_parameters - head) * tokens + head
    return 2 * products + 4 * model.attention_heads * width * pairs


def ceiling_output_tok_s(one: Replica, batch: float, isl: float | None, osl: float | None) -> float:
    """Output tokens per second that no engine can exceed at *batch*: nothing lost, no links, no host.

    With both lengths known a request needs its prompt's products, its tokens' products and its share of every read;
    products and reads overlap at best, so the longer of the two counts. A prefill yields the first token, so *osl*
    tokens are ``osl - 1`` steps. Without lengths only the decode is bounded. Infinite where nothing bounds it: a single
    output token on a chip without published FLOPS.
    """
    decoded = max(0.0, osl - 1) / osl if osl else 1.0  # share of the output tokens that decode steps make
    read = least_weight_bytes(one) + batch * least_cache_bytes(one, isl or 0.0, osl or 0.0)
    found = batch * one.bandwidth / read / decoded if decoded else math.inf
    if one.most_flops is None:
        return found
    flop = 2 * one.weights.read_parameters * decoded
    if isl and osl:
        flop += least_prefill_flop(one, isl) / osl
    return min(found, one.most_flops / flop) if flop else found
