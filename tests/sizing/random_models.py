"""Small models of random weights in the Hub's format, written without any machine-learning library.

The format of safetensors is a length, a JSON header and raw bytes. Values are small and seeded.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
VOCABULARY = 49152


@dataclass(frozen=True)
class Shape:
    layers: int = 5
    hidden: int = 256
    feed: int = 512
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32


def bf16(values: np.ndarray) -> bytes:
    return bytes((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], seed: int = 1) -> None:
    random, header, offset, blobs = np.random.default_rng(seed), {}, 0, []
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else random.normal(0.0, 0.02, shape)
        blob = bf16(values)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.writelines(blobs)


def _layer(shape: Shape, prefix: str, norms: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        f"{prefix}.self_attn.q_proj.weight": (query, shape.hidden),
        f"{prefix}.self_attn.k_proj.weight": (key, shape.hidden),
        f"{prefix}.self_attn.v_proj.weight": (key, shape.hidden),
        f"{prefix}.self_attn.o_proj.weight": (shape.hidden, query),
        f"{prefix}.mlp.gate_proj.weight": (shape.feed, shape.hidden),
        f"{prefix}.mlp.up_proj.weight": (shape.feed, shape.hidden),
        f"{prefix}.mlp.down_proj.weight": (shape.hidden, shape.feed),
        **{f"{prefix}.{norm}.weight": (shape.hidden,) for norm in norms},
    }


def _write(
    folder: Path, tokenizer: Path, config: dict[str, Any], tensors: dict[str, tuple[int, ...]]
) -> Path:
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def _config(shape: Shape, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **more,
    }


def llama(folder: Path, tokenizer: Path, shape: Shape) -> Path:
    """A Llama of *shape*, its tokenizer copied from *tokenizer*."""
    config = _config(
        shape, architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", rope_theta=10000.0
    )
    tensors = {"model.embed_tokens.weight": (VOCABULARY, shape.hidden), "model.norm.weight": (shape.hidden,)}
    for n in range(shape.layers):
        tensors |= _layer(shape, f"model.layers.{n}", ("input_layernorm", "post_attention_layernorm"))
    return _write(folder, tokenizer, config, tensors)


def gemma(folder: Path, tokenizer: Path, shape: Shape, *, every: int, window: int) -> Path:
    """A Gemma 3 text model in which every *every*-th layer attends fully and the others keep *window* tokens."""
    kinds = ["full_attention" if n % every == every - 1 else "sliding_attention" for n in range(shape.layers)]
    config = _config(
        shape,
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
        hidden_activation="gelu_pytorch_tanh",
        rope_theta=1000000.0,
        rope_local_base_freq=10000.0,
        query_pre_attn_scalar=shape.head_dim,
        sliding_window=window,
        layer_types=kinds,
    )
    norms = (
        *("input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    )
    tensors = {"model.embed_tokens.weight": (VOCABULARY, shape.hidden), "model.norm.weight": (shape.hidden,)}
    for n in range(shape.layers):
        prefix = f"model.layers.{n}"
        tensors |= _layer(shape, prefix, norms)
        tensors |= {f"{prefix}.self_attn.{name}.weight": (shape.head_dim,) for name in ("q_norm", "k_norm")}
    return _write(folder, tokenizer, config, tensors)
