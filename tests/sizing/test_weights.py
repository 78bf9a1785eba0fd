"""Weights against the published sizes of models, and what loading at another precision makes of them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.errors import UsageError
from accelbench_assets.sizing.weights import (
    BITS,
    bytes_per_rank,
    expert_parameters,
    native,
    quantised_bytes,
    table_parameters,
    tables,
    weights_of,
)
from partitions.catalog import load_models
from partitions.rows import GIB, ModelRow

MODELS = load_models()
LLAMA = MODELS["llama-3.1-8b-instruct"]

# Parameters in 10^9 and GiB at 16 bits: the methodology's table 5.2 (2026-11-21).
TABLE = [
    ("llama-3.1-8b-instruct", 8.03, 14.96),
    ("llama-3.3-70b-instruct", 70.55, 131.41),
    ("qwen2.5-7b-instruct", 7.62, 14.19),
    ("qwen3-32b", 32.8, 61.09),
    ("qwen3-235b-a22b", 235, 437.72),
    ("mistral-7b-instruct-v0.3", 7.25, 13.50),
    ("gpt-oss-120b", 116.8, 217.56),
    ("deepseek-r1", 671, 1249.85),
]


@pytest.mark.parametrize(("slug", "billions", "gib"), TABLE)
def test_sixteen_bits_of_every_parameter_are_the_tables_figure(
    slug: str, billions: float, gib: float
) -> None:
    """The table's GiB follow from its rounded parameters; the catalog's exact ones agree within that rounding."""
    assert 2e9 * billions / GIB == pytest.approx(gib, abs=0.02)
    assert 2 * MODELS[slug].parameters / GIB == pytest.approx(gib, rel=2e-3)


def test_exact_bytes_come_from_the_checkpoint() -> None:
    weights = weights_of(LLAMA)
    assert (weights.how, weights.precision, weights.total_bytes) == ("checkpoint", "bf16", 16_060_522_496)
    assert (
        weights_of(MODELS["gpt-oss-120b"]).total_bytes == 65_248_815_744
    )  # MXFP4 experts, the rest at 16 bits
    assert weights_of(MODELS["deepseek-r1"]).precision == native(MODELS["deepseek-r1"]) == "fp8_block"


def test_awq_of_llama_8b() -> None:
    """1.051e9 weights of embedding and head at 16 bits and 6.979e9 at 4.156: 5.73 GB."""
    assert tables(LLAMA) * table_parameters(LLAMA) == 1_050_673_152
    assert quantised_bytes(LLAMA, "awq") == round(
        1_050_673_152 * 2 + (8_030_261_248 - 1_050_673_152) * 4.15625 / 8
    )
    assert quantised_bytes(LLAMA, "awq") / 1e9 == pytest.approx(5.73, abs=0.005)
    assert weights_of(LLAMA, "gptq").how == "another checkpoint"
    assert weights_of(LLAMA, "fp8").how == "at load"


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp8_block", 8.002),
        ("int4", 4.156),
        ("int4_g32", 4.625),
        ("nf4", 4.5),
        ("nf4_double", 4.127),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5),
        ("q4_0", 4.5),
        ("q8_0", 8.5),
        ("q6_k", 6.5625),
        ("q4_k", 4.5),
    ],
)
def test_bits_a_weight_with_scales(name: str, bits: float) -> None:
    assert BITS[name] == pytest.approx(bits, abs=6e-4)


def test_a_higher_precision_than_the_checkpoint_is_refused() -> None:
    with pytest.raises(UsageError, match="mxfp4 checkpoint; fp8"):
        weights_of(MODELS["gpt-oss-120b"], "fp8")
    with pytest.raises(UsageError, match="known are"):
        weights_of(LLAMA, "q17")


def test_which_models_use_one_table_twice() -> None:
    tied = {slug for slug, row in MODELS.items() if tables(row) == 1}
    assert {"gemma-3-27b-it", "smollm2-135m-instruct"} <= tied
    assert not tied & {"llama-3.1-8b-instruct", "qwen3-235b-a22b", "gpt-oss-120b", "deepseek-r1"}


def test_experts_are_all_resident_and_few_are_read() -> None:
    qwen = MODELS["qwen3-235b-a22b"]
    assert expert_parameters(qwen) == 94 * 3 * 4096 * 1536
    weights = weights_of(qwen)
    one = weights.read_bytes(1)
    active = 2 * (qwen.active_parameters - table_parameters(qwen))
    assert one == pytest.approx(active, rel=1e-6)
    assert weights.distinct_experts(1) == pytest.approx(8)
    assert weights.distinct_experts(32) == pytest.approx(128 * (1 - (1 - 8 / 128) ** 32))
    assert weights.read_bytes(10_000) == pytest.approx(weights.total_bytes - weights.table_bytes, rel=1e-6)


def test_ranks_share_weights_and_repeat_what_must_be_whole() -> None:
    weights = weights_of(LLAMA)
    norms = 2 * (2 * 32 + 1) * 4096
    assert bytes_per_rank(LLAMA, weights, 1) == weights.total_bytes
    assert bytes_per_rank(LLAMA, weights, 8) == round((weights.total_bytes - norms) / 8 + norms)
    keys_and_values = 2 * 2 * 32 * 4096 * 8 * 128  # 8 KV heads on 16 ranks: each projection exists twice
    assert bytes_per_rank(LLAMA, weights, 16) == round(
        (weights.total_bytes - norms + keys_and_values) / 16 + norms
    )


@given(
    slug=st.sampled_from(sorted(MODELS)), tp=st.sampled_from([1, 2, 4, 8, 16, 64]), tokens=st.floats(1, 1e5)
)
def test_no_rank_holds_less_than_its_share_and_no_step_reads_more_than_there_is(
    slug: str, tp: int, tokens: float
) -> None:
    model: ModelRow = MODELS[slug]
    weights = weights_of(model)
    held = bytes_per_rank(model, weights, tp)
    assert weights.total_bytes / tp - 1 <= held <= weights.total_bytes
    assert 0 < weights.read_bytes(tokens) <= weights.total_bytes
    assert weights.read_bytes(tokens) <= weights.read_bytes(tokens + 1)
    smaller = weights_of(replace(model, quantization="none", weight_bytes=2 * model.parameters), "int4")
    assert smaller.total_bytes < 2 * model.parameters
