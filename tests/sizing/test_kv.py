"""KV cache per token against the published figures, and blocks as vLLM groups them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.errors import UsageError
from accelbench_assets.sizing import kv
from partitions.catalog import load_models

MODELS = load_models()
LLAMA, GPT, GEMMA, R1 = (
    MODELS[n] for n in ("llama-3.1-8b-instruct", "gpt-oss-120b", "gemma-3-27b-it", "deepseek-r1")
)

# Bytes a token at 16 bits: the methodology's table 5.2. Of gpt-oss the 18 full layers; 18 more keep 128 tokens.
TABLE = [
    ("llama-3.1-8b-instruct", 131072),
    ("llama-3.3-70b-instruct", 327680),
    ("qwen2.5-7b-instruct", 57344),
    ("qwen3-32b", 262144),
    ("qwen3-235b-a22b", 192512),
    ("mistral-7b-instruct-v0.3", 131072),
    ("gpt-oss-120b", 36864),
    ("deepseek-r1", 70272),
]


@pytest.mark.parametrize(("slug", "bytes_"), TABLE)
def test_bytes_per_token(slug: str, bytes_: int) -> None:
    assert kv.bytes_per_token(MODELS[slug]) == bytes_ == MODELS[slug].kv_bytes_per_token
    assert kv.bytes_per_token(MODELS[slug], kv_dtype="fp8") == bytes_ // 2


def test_llama_405b_is_not_in_the_catalog_and_agrees_all_the_same() -> None:
    assert kv.bytes_per_token(replace(LLAMA, layers=126)) == 516096


def test_more_ranks_than_heads_repeat_the_cache() -> None:
    assert [kv.copies(LLAMA, tp) for tp in (1, 8, 16)] == [1, 1, 2]
    assert kv.bytes_per_token(LLAMA, 8) == kv.bytes_per_token(LLAMA)
    assert kv.bytes_per_token(LLAMA, 16) == 2 * kv.bytes_per_token(LLAMA)
    assert kv.bytes_per_token(R1, 8) == 8 * 70272  # one latent vector, whole on every rank
    mqa = replace(LLAMA, kv_heads=1)
    assert kv.layer_bytes_per_rank(mqa, 4) == kv.layer_bytes_per_rank(mqa, 1) == 512


def test_windows_stop_growing() -> None:
    assert kv.bytes_read(GPT, 100) == 36 * 2048 * 100
    assert kv.bytes_read(GPT, 8192) == 18 * 2048 * 8192 + 18 * 2048 * 128
    assert kv.bytes_read(GPT, 8192) == GPT.kv_bytes(8192)


def test_groups_of_equally_many_layers() -> None:
    assert kv.groups(LLAMA) == (kv.Group(32, None),)
    assert kv.groups(GPT) == (kv.Group(18, None), kv.Group(18, 128))
    # 52 windows: six groups, one padded.
    assert kv.groups(GEMMA) == (kv.Group(10, None), *[kv.Group(10, 1024)] * 6)
    assert kv.groups(replace(GPT, full_attention_layers=15)) == (kv.Group(21, None), kv.Group(21, 128))
    assert kv.groups(replace(GPT, full_attention_layers=0)) == (kv.Group(36, 128),)


def test_blocks_of_a_sequence() -> None:
    assert kv.block_bytes(LLAMA) == 32 * 4096 * 16
    assert kv.block_bytes(LLAMA, tp=8) == 32 * 512 * 16
    assert [kv.blocks_per_sequence(LLAMA, n) for n in (1, 16, 17, 8192)] == [1, 1, 2, 512]
    # A window of 128 with 2,048 tokens in flight: ceil(2,175 / 16) blocks and one more; short sequences hold all.
    assert kv.blocks_per_sequence(GPT, 8192, in_flight=2048) == 512 + 136 + 1
    assert kv.blocks_per_sequence(GPT, 64, in_flight=2048) == 4 + 4 + 1


def test_an_unknown_cache_type_is_refused() -> None:
    with pytest.raises(UsageError, match="'int3' is not a KV cache type; known are auto"):
        kv.value_bytes("int3")


@given(
    slug=st.sampled_from(sorted(MODELS)),
    tokens=st.integers(1, 8000),
    flight=st.integers(0, 20000),
    blocks=st.integers(1, 5000),
)
def test_longest_is_the_inverse_of_blocks(slug: str, tokens: int, flight: int, blocks: int) -> None:
    model = MODELS[slug]
    need = kv.blocks_per_sequence(model, tokens, in_flight=flight)
    assert need <= kv.blocks_per_sequence(model, tokens + 1, in_flight=flight)
    length = kv.longest(model, blocks, in_flight=flight)
    assert length <= model.max_position_embeddings
    if length:
        assert kv.blocks_per_sequence(model, length, in_flight=flight) <= blocks
    if length + 16 <= model.max_position_embeddings:
        assert kv.blocks_per_sequence(model, length + 16, in_flight=flight) > blocks


@given(slug=st.sampled_from(sorted(MODELS)), tp=st.integers(1, 64))
def test_all_ranks_together_never_keep_less_than_the_model(slug: str, tp: int) -> None:
    model = MODELS[slug]
    whole = kv.bytes_per_token(model)
    assert kv.bytes_per_token(model, tp) >= whole
    assert kv.bytes_read(model, 5000, tp) >= kv.bytes_read(model, 5000)
    assert kv.copies(model, tp) >= 1
    assert kv.bytes_per_token(model, tp) == pytest.approx(kv.copies(model, tp) * whole)
    assert kv.block_bytes(model, tp) * tp >= kv.block_bytes(model)


@pytest.mark.parametrize(
    ("slug", "tp", "heads"),
    [
        ("llama-3.1-8b-instruct", 4, 2),
        ("llama-3.1-8b-instruct", 24, 1),  # repeated until each rank has one
        ("gemma-3-27b-it", 12, 3),  # 16 KV heads: one for each of 32 attention heads, padded to 36
        ("phi-4", 4, 10),  # 10 KV heads: one for each of 40
        ("phi-4", 8, 5),
        ("smollm2-135m-instruct", 2, 5),  # 3 KV heads, 9 attention heads
        ("phi-3.5-mini-instruct", 24, 2),  # 32 heads padded to 48
        ("deepseek-r1", 32, 1),
    ],
)
def test_heads_that_do_not_divide_are_padded_not_lost(slug: str, tp: int, heads: int) -> None:
    model = MODELS[slug]
    assert model.kv_heads_per_rank(tp) == heads
    values = 1 if model.attention_kind == "mla" else 2
    assert kv.layer_bytes_per_rank(model, tp) == values * heads * model.head_dim * 2
