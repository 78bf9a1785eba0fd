"""A model's ``config.json`` as facts: shapes, attention, experts, context, precision.

Belongs here: one document in, one ``ModelConfig`` out; nothing is guessed, what is derived or missing is in ``notes``.
Does not belong here: asking for the document (``hub``), counting parameters (``parameters``), sizes of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.models.experts import Experts, read_experts
from accelbench_assets.models.fields import Fields, outer_and_text
from accelbench_assets.models.layers import Layers, read_layers
from accelbench_assets.models.quantization import Quantization, read_quantization

MHA, GQA, MQA, MLA, NO_ATTENTION = "mha", "gqa", "mqa", "mla", "none"
DTYPES = {
    **{"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "half": "fp16", "fp16": "fp16"},
    **{"float32": "fp32", "float": "fp32", "fp32": "fp32", "float8_e4m3fn": "fp8"},
}
KV_BYTES = 2  # of one cached value at 16 bits


class ModelConfigError(AccelBenchError):
    """A configuration that says too little to be of use; names the model and the fields that are missing."""


@dataclass(frozen=True, slots=True)
class Latent:
    """The widths of multi-head latent attention. ``query`` null = queries are projected in one step."""

    kv: int
    query: int | None
    rope: int
    nope: int | None
    value: int | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a configuration says. Counts are above 0; null = it does not say. ``kv_heads`` and ``head_dim`` of latent
    attention are 1 and latent + rotary width: what is cached.
    """

    architecture: str | None
    model_type: str | None
    layers: Layers
    hidden_size: int
    intermediate_size: int | None
    attention_heads: int | None
    kv_heads: int | None
    head_dim: int | None
    attention_kind: str
    latent: Latent | None
    experts: Experts | None
    vocab_size: int | None
    max_position_embeddings: int | None
    dtype: str | None
    quantization: Quantization
    tied: bool | None
    notes: tuple[str, ...]

    @property
    def kv_bytes_per_layer(self) -> int | None:
        """Bytes of one token's keys and values in one layer at 16 bits, all ranks of TP 1."""
        if not self.layers.attends:
            return 0
        if self.kv_heads is None or self.head_dim is None:
            return None
        return self.kv_heads * self.head_dim * KV_BYTES * (1 if self.attention_kind == MLA else 2)

    @property
    def kv_bytes_per_token(self) -> int | None:
        """Bytes of KV cache that one more token of a long sequence costs at 16 bits. Windows and states have stopped
        growing; null where a layer's kind is not known.
        """
        each = self.kv_bytes_per_layer
        return None if each is None or self.layers.unknown else self.layers.full * each

    @property
    def attention(self) -> str:
        """Kind and layers in words."""
        return f"{self.attention_kind}; {self.layers}"


def read_config(document: Mapping[str, Any], model: str = "the model") -> ModelConfig:
    """The facts of *document*. Raises ``ModelConfigError`` where it states neither layers nor width."""
    outer, text = outer_and_text(document)
    total = text.count("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    pattern = text.text("hybrid_override_pattern")
    if total is None and pattern:
        total = len(pattern.replace("|", "")) or None
    hidden = text.count("hidden_size", "n_embd", "d_model", "dim", "model_dim")
    if total is None or hidden is None:
        missing = [n for n, v in (("num_hidden_layers", total), ("hidden_size", hidden)) if v is None]
        raise ModelConfigError(
            f"config.json of {model} does not state {' and '.join(missing)}.",
            hint="It may be an adapter, a pipeline or a format of its own: name the repository of the full model.",
        )
    context = _context(text) or _context(outer)
    layers = read_layers(text, total, context)
    heads, kv_heads, head_dim, kind, latent = _attention(text, layers, hidden)
    experts = read_experts(text, total)
    architecture = next(iter(outer.words("architectures") or text.words("architectures") or ()), None)
    if architecture is None:
        outer.note("config.json names no architecture: an engine cannot tell how to load it")
    width = text.count("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "d_ff")
    return ModelConfig(
        architecture=architecture,
        model_type=text.model_type,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=width,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        attention_kind=kind,
        latent=latent,
        experts=experts,
        vocab_size=text.count("vocab_size", "padded_vocab_size") or outer.count("vocab_size"),
        max_position_embeddings=context,
        dtype=_dtype(text) or _dtype(outer),
        quantization=read_quantization(outer, text),
        tied=_first_flag(text, outer, "tie_word_embeddings"),
        notes=tuple(outer.notes),
    )


def _first_flag(text: Fields, outer: Fields, name: str) -> bool | None:
    found = text.flag(name)
    return outer.flag(name) if found is None else found


def _context(level: Fields) -> int | None:
    return level.count(
        *("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length"),
        *("model_max_length", "max_seq_length"),
    )


def _dtype(level: Fields) -> str | None:
    found = level.text("torch_dtype") or level.text("dtype")
    return DTYPES.get(found.removeprefix("torch."), found.lower()) if found else None


def _attention(
    text: Fields, layers: Layers, hidden: int
) -> tuple[int | None, int | None, int | None, str, Latent | None]:
    """(heads, KV heads, head width, kind, latent widths) of the layers that attend."""
    if not layers.attends and not layers.unknown:
        return None, None, None, NO_ATTENTION, None
    heads = text.count("num_attention_heads", "n_head", "n_heads", "num_heads")
    rank = text.count("kv_lora_rank")
    if rank is not None:
        rope = text.count("qk_rope_head_dim")
        if rope is None:
            text.note("qk_rope_head_dim is missing: 64 is assumed, as in DeepSeek")
            rope = 64
        if text.count("index_head_dim"):
            text.note("sparse attention keeps index keys beside the latent cache: they are not counted")
        latent = Latent(
            kv=rank,
            query=text.count("q_lora_rank"),
            rope=rope,
            nope=text.count("qk_nope_head_dim"),
            value=text.count("v_head_dim"),
        )
        return heads, 1, rank + rope, MLA, latent
    kv_heads = text.count("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    if kv_heads is None:
        kv_heads = text.inner("attn_config").count("kv_n_heads")
    if kv_heads is None and text.flag("multi_query") and not text.flag("new_decoder_architecture"):
        kv_heads = 1
    if kv_heads is None and heads is not None:
        kv_heads = heads
        text.note("KV heads are not stated: taken as many as attention heads")
    head_dim = text.count("head_dim", "attention_head_dim", "kv_channels")
    if head_dim is None and heads is not None and hidden % heads == 0:
        head_dim = hidden // heads
    if head_dim is None:
        text.note("the width of a head is neither stated nor hidden size over heads")
    if text.count("global_head_dim", "num_global_key_value_heads"):
        text.note(
            "layers with full attention have heads of their own (global_…): their cache is taken by those"
        )
        head_dim = text.count("global_head_dim") or head_dim
        kv_heads = text.count("num_global_key_value_heads") or kv_heads
    if kv_heads is None:
        return heads, None, head_dim, "unknown", None
    kind = MQA if kv_heads == 1 else MHA if kv_heads == heads else GQA
    return heads, kv_heads, head_dim, kind, None
