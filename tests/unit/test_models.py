"""The packaged model facts agree: parameters follow from the architecture, bytes from both."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta

import pytest

from accelbench_assets.engines.weights import packaged_gguf
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.models.facts import models_table, packaged_age
from partitions.catalog import ModelRow, load_models, models_file

# What the parameter formula needs beyond the row.
TIED = {
    *("smollm2-135m-instruct", "llama-3.2-1b-instruct", "llama-3.2-3b-instruct", "qwen2.5-1.5b-instruct"),
    *("qwen3-0.6b", "qwen3-4b", "phi-4-mini-instruct"),
}
GEMMA = {"Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"}
MLA = {"deepseek-r1", "deepseek-v3"}
OTHER_ARCHITECTURE = {*MLA, "gpt-oss-20b", "gpt-oss-120b"}
# The image tower of Gemma 3 (27 blocks of width 1152), without the projection to the text model's width.
TOWER = (
    1152 * 3 * 14**2 + 1152 + 64**2 * 1152 + 27 * (4 * 1152**2 + 2 * 1152 * 4304 + 4304 + 9 * 1152) + 2 * 1152
)


def norms(m: ModelRow) -> int:
    """Of one layer: two, or four in Gemma from 2 on, and those of queries and keys."""
    inner = 0
    if m.architecture.startswith(("Qwen3", "Gemma3")):
        inner = 2 * m.head_dim
    elif m.architecture.startswith("Olmo2"):
        inner = (m.attention_heads + m.kv_heads) * m.head_dim
    return inner + (4 if m.architecture in GEMMA else 2) * m.hidden_size


def parameters(m: ModelRow, experts: int | None) -> int:
    """Llama-like decoder: embeddings, attention, gated feed-forward (of each expert, and a router), norms; the image
    tower where there is one.
    """
    width, kv_width = m.attention_heads * m.head_dim, m.kv_heads * m.head_dim
    attention = m.hidden_size * (2 * width + 2 * kv_width)
    attention += (width + 2 * kv_width) * m.architecture.startswith("Qwen2For")
    feed_forward = 3 * m.hidden_size * m.intermediate_size * (experts or 1) + m.hidden_size * (m.experts or 0)
    tables = m.vocab_size * m.hidden_size * (1 if m.slug in TIED or m.architecture in GEMMA else 2)
    tower = TOWER + 1152 * m.hidden_size + 1152 if m.architecture == "Gemma3ForConditionalGeneration" else 0
    return tables + m.layers * (attention + feed_forward + norms(m)) + m.hidden_size + tower


@pytest.mark.parametrize("slug", [s for s in load_models() if s not in OTHER_ARCHITECTURE])
def test_parameters_follow_from_the_architecture(slug: str) -> None:
    model = load_models()[slug]
    assert parameters(model, model.experts) == model.parameters
    assert parameters(model, model.experts_per_token) == model.active_parameters


def test_deepseek_and_gpt_oss_parameters() -> None:
    for slug in MLA:
        r1 = load_models()[slug]
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
        ("deepseek-v3", 641.3, 70272),
        ("llama-3.1-405b-instruct", 755.96, 516096),
        ("gemma-3-27b-it", 51.1, 81920),  # 10 of 62 layers attend to everything
        ("gemma-2-9b-it", 17.21, 172032),  # every second layer
        ("phi-3.5-mini-instruct", 7.12, 393216),  # every head has keys and values of its own
        ("gemma-3-1b-it", 1.862, 4096),  # one KV head
    ],
)
def test_known_sizes(slug: str, gib: float, kv_bytes_per_token: int) -> None:
    model = load_models()[slug]
    assert model.weight_gib == pytest.approx(gib, rel=1e-3)
    assert model.kv_bytes_per_token == kv_bytes_per_token


def test_there_are_at_least_thirty_and_their_kinds_are_right() -> None:
    models = load_models()
    assert len(models) >= 30
    for m in models.values():
        expected = (
            "mla"
            if m.slug in MLA
            else "mqa"
            if m.kv_heads == 1
            else "mha"
            if m.kv_heads == m.attention_heads
            else "gqa"
        )
        assert m.attention_kind == expected, m.slug
        assert (m.full_attention_layers is None) == (m.sliding_window is None), m.slug
        assert (m.experts is None) == (m.experts_per_token is None), m.slug
        assert m.active_parameters <= m.parameters, m.slug
    assert len({m.model_id.lower() for m in models.values()}) == len(models)


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
    assert len(rows) == len(load_models()) == table.num_rows
    llama = rows["meta-llama/Llama-3.1-8B-Instruct"]
    assert llama["revision"] == "0e9e39f249a16976918f6564b8830bc894c89659"
    assert llama["gated"] is True
    assert rows["mistralai/Mistral-7B-Instruct-v0.3"]["gated"] is None  # not verified
    assert all(r["source"] and r["fetched_at"] is not None for r in rows.values())


def test_the_age_of_the_facts() -> None:
    as_of = models_file().as_of
    day = date.fromisoformat(as_of)
    assert packaged_age(day).days == 0
    assert packaged_age(day + timedelta(days=40)).days == 40
    assert packaged_age(day - timedelta(days=1)).days == 0  # a clock that is behind makes nothing younger
    assert str(packaged_age(day + timedelta(days=1))) == f"facts of {as_of} (1 day old)"


def test_revisions_are_pinned_or_say_that_they_are_not() -> None:
    for model in load_models().values():
        assert model.revision == (model.commit or model.revision)[:7] or model.revision == "unpinned"
    assert [m.slug for m in load_models().values() if m.commit is None] == ["smollm2-135m-instruct"]


def test_the_demo_model_is_the_file_that_is_installed() -> None:
    file = packaged_gguf()
    assert file is not None, "requirements.lock brings it"
    model = load_models()["smollm2-135m-instruct"]
    assert file.stat().st_size == model.weight_bytes
    with file.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest().startswith(model.revision)
