"""Mixtures of experts: how many, how many a token passes, in which layers.

Belongs here: reading that from the many names it has. Does not belong here: parameters and bytes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelbench_assets.models.fields import Fields


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture: ``width`` of one expert, ``shared`` that every token passes (0 = none, widths added up), in
    ``layers`` of all layers.
    """

    count: int
    per_token: int
    width: int
    shared: int
    shared_width: int
    layers: int


def read_experts(text: Fields, total: int) -> Experts | None:
    """The mixture of a model of *total* layers; ``None`` for a dense one, or where an expert's width is not stated."""
    inner = text.inner("ffn_config")
    count = text.count("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    count = count or inner.count("moe_num_experts")
    if count is None or count == 1:
        return None
    drawn = text.count(
        "num_experts_per_tok", "experts_per_token", "num_experts_per_token", "moe_k", "moe_topk"
    )
    drawn = drawn or text.count("top_k_experts", "moe_top_k") or inner.count("moe_top_k")
    if drawn is None:
        text.note(f"{count} experts, but not how many a token passes: taken as all of them")
        drawn = count
    width = text.count(
        "moe_intermediate_size", "expert_intermediate_size", "ffn_hidden_size", "intermediate_size"
    )
    width = width or inner.count("ffn_hidden_size")
    if width is None:
        text.note("the width of an expert is not stated: active parameters cannot be told")
        return None
    shared = text.count("n_shared_experts", "num_shared_experts", "moe_num_shared_experts") or 0
    shared_width = text.count("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
    if shared_width is not None:
        shared = shared or 1
    elif text.model_type == "llama4_text":
        shared, shared_width = 1, width
    return Experts(
        count=count,
        per_token=min(drawn, count),
        width=width,
        shared=shared,
        shared_width=shared_width if shared_width is not None else shared * width,
        layers=_moe_layers(text, total),
    )


def _moe_layers(text: Fields, total: int) -> int:
    """How many layers hold experts; the others have one feed-forward of full width, or none."""
    pattern = text.text("hybrid_override_pattern")
    if pattern and len(pattern.replace("|", "")) == total:
        return pattern.count("E")
    named = text.words("mlp_layer_types") or text.words("layer_types") or ()
    if "moe" in named or "sparse" in named:
        return sum(one in ("moe", "sparse") for one in named)
    listed = text.numbers("moe_layers")
    if listed is not None:
        return len({one for one in listed if one < total})
    frequency = text.numbers("moe_layer_freq")
    if frequency:
        return sum(bool(one) for one in frequency[:total])
    step = (
        text.count("interleave_moe_layer_step", "moe_layer_freq", "decoder_sparse_step", "moe_layer_interval")
        or 1
    )
    period = text.count("expert_layer_period")
    if period:
        offset = text.whole("expert_layer_offset") or 0
        return sum(i % period == offset for i in range(min(total, 10_000)))
    first = text.whole("first_k_dense_replace") or text.whole("moe_layer_start_index") or 0
    dense = set(text.numbers("mlp_only_layers") or ())
    if text.raw("first_k_dense_replace") is not None:
        return sum(i >= first and i % step == 0 for i in range(min(total, 10_000)))
    return sum(i >= first and (i + 1) % step == 0 and i not in dense for i in range(min(total, 10_000)))
