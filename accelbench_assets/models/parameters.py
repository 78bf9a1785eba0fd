"""Parameters by architecture: how many there are, and how many a token passes.

Belongs here: the shapes of the architectures listed in ``TRAITS``, summed. Does not belong here: what a checkpoint
holds (``weights``): it may hold a tied head twice, or a prediction module that is not served.

For an architecture that is not listed the sum is not attempted: its count is the checkpoint's, if that says one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelbench_assets.models.config import MLA, ModelConfig
from accelbench_assets.models.fields import plain_count

HEAD, WHOLE = "head", "whole"
_SIGLIP_PATCH_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Traits:
    """What an architecture has beside the plain decoder: biases, norms, tied tables. ``bias`` true = as the flag
    ``attention_bias`` of the configuration says.
    """

    qkv_bias: bool = False
    output_bias: bool = False
    flagged_bias: bool = True
    query_key_norm: str | None = None
    norms: int = 2
    tied: bool = False
    sinks: bool = False
    expert_bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    vision: bool = False


_QWEN2 = Traits(qkv_bias=True, flagged_bias=False)
_QWEN3 = Traits(query_key_norm=HEAD)
_GEMMA3 = Traits(query_key_norm=HEAD, norms=4, tied=True)
_DEEPSEEK = Traits(router_bias=True)
TRAITS: Mapping[str, Traits] = {
    "LlamaForCausalLM": Traits(),
    "MistralForCausalLM": Traits(flagged_bias=False),
    "MixtralForCausalLM": Traits(flagged_bias=False),
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen2MoeForCausalLM": replace(_QWEN2, shared_gate=True),
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen3MoeForCausalLM": _QWEN3,
    "Phi3ForCausalLM": Traits(flagged_bias=False),
    "GemmaForCausalLM": Traits(tied=True),
    "Gemma2ForCausalLM": Traits(norms=4, tied=True),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA3, vision=True),
    "Olmo2ForCausalLM": Traits(query_key_norm=WHOLE),
    "DeepseekV2ForCausalLM": Traits(),
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "Glm4MoeForCausalLM": Traits(qkv_bias=True, flagged_bias=False, router_bias=True),
    "GptOssForCausalLM": Traits(
        qkv_bias=True, output_bias=True, flagged_bias=False, sinks=True, expert_bias=True, router_bias=True
    ),
}
"""Architectures whose parameters are summed; the figures of the packaged rows and of transformers agree with them."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Parameters as served: all of them, and those of a token's path (with the input table)."""

    total: int
    active: int


def known(config: ModelConfig) -> bool:
    """Whether the architecture's shapes are known here."""
    return config.architecture in TRAITS


def expert_parameters(config: ModelConfig) -> int | None:
    """Parameters of one expert in one layer; ``None`` without experts."""
    if config.experts is None:
        return None
    each = 3 * config.hidden_size * config.experts.width
    traits = TRAITS.get(config.architecture or "")
    return each + (2 * config.experts.width + config.hidden_size if traits and traits.expert_bias else 0)


def undrawn(config: ModelConfig) -> int | None:
    """Parameters of experts that a token does not pass: 0 for a dense model, ``None`` where it cannot be told."""
    each = expert_parameters(config)
    if config.experts is None or each is None:
        return 0 if config.experts is None else None
    return (config.experts.count - config.experts.per_token) * each * config.experts.layers


def count(config: ModelConfig, document: Mapping[str, Any]) -> Counted | None:
    """The parameters of a known architecture; ``None`` for another one, or one whose shapes are not all stated."""
    traits = TRAITS.get(config.architecture or "")
    if traits is None or config.vocab_size is None or config.layers.state or config.layers.unknown:
        return None
    flagged = traits.flagged_bias and _flag(document, "attention_bias")
    if flagged:
        traits = replace(traits, qkv_bias=True, output_bias=config.attention_kind != MLA)
    if traits.qkv_bias and config.architecture == "Glm4MoeForCausalLM":
        traits = replace(
            traits,
            qkv_bias=_flag(document, "attention_bias"),
            query_key_norm=HEAD if _flag(document, "use_qk_norm") else None,
        )
    attention = _attention(config, traits)
    ordinary = _feed_forward(config, document)
    if attention is None or ordinary is None:
        return None
    layers, hidden = config.layers.total, config.hidden_size
    mixed = config.experts.layers if config.experts else 0
    mixture = _mixture(config, traits)
    tied = config.tied if config.tied is not None else traits.tied
    total = config.vocab_size * hidden * (1 if tied else 2)
    total += layers * (attention + traits.norms * hidden) + hidden
    total += mixed * mixture + (layers - mixed) * ordinary
    if traits.vision:
        tower = _siglip(document.get("vision_config"), hidden)
        if tower is None:
            return None
        total += tower
    left = undrawn(config)
    return None if left is None else Counted(total, total - left)


def _flag(document: Mapping[str, Any], name: str) -> bool:
    inner = document.get("text_config")
    return document.get(name) is True or (isinstance(inner, Mapping) and inner.get(name) is True)


def _attention(config: ModelConfig, traits: Traits) -> int | None:
    hidden, heads = config.hidden_size, config.attention_heads
    if heads is None:
        return None
    if config.latent is not None:
        latent = config.latent
        if latent.nope is None or latent.value is None:
            return None
        query = heads * (latent.nope + latent.rope)
        wide = (
            hidden * query
            if latent.query is None
            else hidden * latent.query + latent.query + latent.query * query
        )
        down = hidden * (latent.kv + latent.rope) + latent.kv
        return wide + down + latent.kv * heads * (latent.nope + latent.value) + heads * latent.value * hidden
    if config.kv_heads is None or config.head_dim is None:
        return None
    width, kv = heads * config.head_dim, config.kv_heads * config.head_dim
    found = hidden * (2 * width + 2 * kv)
    found += (width + 2 * kv) if traits.qkv_bias else 0
    found += hidden if traits.output_bias else 0
    found += heads if traits.sinks else 0
    found += {None: 0, HEAD: 2 * config.head_dim, WHOLE: width + kv}[traits.query_key_norm]
    return found


def _feed_forward(config: ModelConfig, document: Mapping[str, Any]) -> int | None:
    """A layer without experts: three matrices."""
    if config.intermediate_size is None:
        return 0 if config.experts and config.experts.layers == config.layers.total else None
    bias = (
        2 * config.intermediate_size + config.hidden_size
        if document.get("mlp_bias") is True and config.architecture == "LlamaForCausalLM"
        else 0
    )
    return 3 * config.hidden_size * config.intermediate_size + bias


def _mixture(config: ModelConfig, traits: Traits) -> int:
    """A layer with experts: all of them, what every token passes, and the router."""
    each = expert_parameters(config)
    if config.experts is None or each is None:
        return 0
    router = config.hidden_size * config.experts.count
    router += config.experts.count if traits.router_bias else 0
    shared = 3 * config.hidden_size * config.experts.shared_width
    shared += config.hidden_size if traits.shared_gate else 0
    return config.experts.count * each + router + shared


def _siglip(vision: object, hidden: int) -> int | None:
    """The image tower of Gemma 3 and its projection: patches, positions, blocks, norms."""
    if not isinstance(vision, Mapping):
        return None
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size", "image_size")
    width, inner, layers, patch, image = (plain_count(vision.get(name)) for name in names)
    if not (width and inner and layers and patch and image):
        return None
    tower = width * _SIGLIP_PATCH_CHANNELS * patch**2 + width + (image // patch) ** 2 * width
    block = 4 * (width**2 + width) + (width * inner + inner) + (inner * width + width) + 4 * width
    return tower + layers * block + 2 * width + width * hidden + width
