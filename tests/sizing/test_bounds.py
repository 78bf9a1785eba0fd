"""Ceilings and floors: never too low, whatever a decode does not read or draws less of than expected."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.errors import UsageError
from accelbench_assets.sizing import kv
from accelbench_assets.sizing.bounds import (
    ceiling_output_tok_s,
    least_cache_bytes,
    least_prefill_flop,
    least_weight_bytes,
)
from accelbench_assets.sizing.roofline import Replica, most_tflops, prefill_flop, prefill_s, replica, step_s
from accelbench_assets.sizing.weights import weights_of
from partitions.catalog import load_instances, load_models
from tests.sizing.plausible import Figure, faults, least_prefill_s, least_step_s
from tests.unit.test_model_parts import attention, feed_forward

M = load_models()
CHIPS = {row.accelerator.id: row.accelerator for row in load_instances().values()}
RATED = sorted(name for name, chip in CHIPS.items() if chip.memory_bandwidth_gb_s and chip.bf16_tflops)


def one_of(slug: str, chip: str, tp: int, precision: str | None = None, kv_dtype: str = "auto") -> Replica:
    found = replica(M[slug], weights_of(M[slug], precision), CHIPS[chip], tp, kv_dtype)
    assert found is not None
    return found


@pytest.mark.parametrize("slug", ["deepseek-r1", "deepseek-v3"])
def test_a_decode_without_speculation_does_not_read_the_prediction_module(slug: str) -> None:
    """By the shapes: attention, norms, dense layers, router, shared and eight experts; one table at 16 bits. Checked
    with the published bytes: see test_model_parts."""
    one, h = one_of(slug, "h200", 8), 7168
    rest = 61 * attention() + 3 * feed_forward(18432) + 58 * (2 * 256 * h + 4 * 256)
    truth = rest + 58 * 9 * feed_forward(2048) + 2 * 129280 * h
    assert truth / 1e9 == pytest.approx(37.67, abs=0.01)
    assert least_weight_bytes(one) == pytest.approx(truth, rel=1e-3)
    assert ceiling_output_tok_s(one, 1, None, None) == pytest.approx(8 * 4.8e12 / truth, rel=1e-3)
    assert not faults(Figure("x", 1, output_tok_s=850, isl=100, osl=1000), one)
    assert not faults(Figure("x", 1, tpot_ms=1.10, isl=100, osl=1000), one)
    assert faults(Figure("x", 1, output_tok_s=1060, isl=100, osl=1000), one)
    assert faults(Figure("x", 1, tpot_ms=0.94, isl=100, osl=1000), one)


def test_speculative_figures_have_no_bound_of_the_decode() -> None:
    one = one_of("deepseek-r1", "h200", 8)
    fast = Figure("x", 1, output_tok_s=1500, tpot_ms=0.7, ttft_ms=60, isl=100, osl=1000, speculative=True)
    assert not faults(fast, one)
    assert faults(replace(fast, speculative=False), one)
    assert faults(replace(fast, ttft_ms=0.01), one)


@pytest.mark.parametrize("slug", ["gemma-3-27b-it", "gemma-3-12b-it"])
def test_a_decode_reads_no_image_tower(slug: str) -> None:
    model, one = M[slug], one_of(slug, "h100", 1)
    text = model.parameters - model.tower_parameters  # tied: the input table is the output head and is read
    assert least_weight_bytes(one) == 2 * text
    assert one.weights.read_parameters == text
    assert one.weights.total_bytes == 2 * model.parameters  # vLLM loads it


def test_equal_prompts_draw_equal_experts() -> None:
    one = one_of("qwen3-235b-a22b", "h200", 8)
    active = 2 * (M["qwen3-235b-a22b"].active_parameters - 151936 * 4096)
    assert least_weight_bytes(one) == pytest.approx(active, rel=1e-9)
    assert least_step_s(one, 64, 0) < step_s(one, 64, 0) / 5


def test_cache_is_read_once_however_many_ranks_hold_it() -> None:
    assert least_cache_bytes(one_of("deepseek-r1", "h200", 8), 1000) == 70272 * 1000
    assert least_cache_bytes(one_of("llama-3.1-8b-instruct", "trainium2", 16), 1000) == 131072 * 1000


@given(isl=st.integers(0, 3000), osl=st.integers(1, 3000))
def test_windows_as_far_as_they_are_filled(isl: int, osl: int) -> None:
    """The closed form against the sum over steps; lengths grow by one, so half a token is the error."""
    one = one_of("gemma-3-27b-it", "h100", 1)
    lengths = [isl + step + 0.5 for step in range(osl)]
    each = kv.layer_bytes_per_rank(one.model)
    summed = sum(10 * n + 52 * min(n, 1024) for n in lengths) / osl * each
    assert least_cache_bytes(one, isl, osl) == pytest.approx(summed, rel=1e-3)


def test_the_first_token_is_the_prefills() -> None:
    """Two output tokens are one step: a batch may yield two tokens in the time of one step's reads."""
    one = one_of("llama-3.1-8b-instruct", "h100", 1)
    step = least_step_s(one, 4, 11)
    assert ceiling_output_tok_s(one, 4, 10, 2) == pytest.approx(2 * 4 / step)
    assert ceiling_output_tok_s(one, 4, 10, 1001) > 4 / least_step_s(one, 4, 10 + 1001 / 2)
    flop = least_prefill_flop(one, 10)
    assert ceiling_output_tok_s(one, 4, 10, 1) == pytest.approx(989e12 / flop, rel=2e-3)


def test_a_prompt_multiplies_the_output_head_once() -> None:
    """Of Gemma-3-1B, 302 of 1,000 million parameters are the head: a floor that has it a token is too high."""
    one = one_of("gemma-3-1b-it", "l4", 1)
    head = 262144 * 1152
    squares = 4 * 4 * 256 * (4 * 1000**2 / 2 + 22 * (512 * 1000 - 512**2 / 2))
    products = 2 * ((999885952 - head) * 1000 + head)
    assert least_prefill_flop(one, 1000) == pytest.approx(products + squares)
    least = 1e3 * least_prefill_s(one, 1000)
    assert least < 0.75 * 1e3 * (prefill_s(one, 1000) or 0.0)
    assert not faults(Figure("x", 1, ttft_ms=1.01 * least, isl=1000), one)


def test_low_precision_is_bounded_by_its_bare_bits_and_the_fastest_units() -> None:
    one = one_of("llama-3.1-8b-instruct", "a100-80", 1, "int4")
    assert least_weight_bytes(one) == pytest.approx((8030261248 - 128256 * 4096) / 2)  # a head of 4 bits, too
    assert [
        most_tflops(weights_of(M["llama-3.1-8b-instruct"], p), CHIPS["a100-80"])
        for p in (None, "int8", "awq")
    ] == [
        312,
        624,  # INT8 products
        1872,
    ]
    bare = replace(CHIPS["a100-80"], bf16_tflops=None)
    assert most_tflops(one.weights, bare) is None
    unrated = replica(one.model, one.weights, bare, 1)
    assert unrated is not None
    # Reading is still a floor.
    assert least_prefill_s(unrated, 1000) == least_weight_bytes(one) / one.bandwidth


@given(
    slug=st.sampled_from(sorted(M)),
    chip=st.sampled_from(RATED),
    precision=st.sampled_from([None, "fp8", "int8", "int4"]),
    kv_dtype=st.sampled_from(["auto", "fp8"]),
    tp=st.sampled_from([1, 2, 4, 8, 12, 24]),
    batch=st.integers(1, 1024),
    tokens=st.integers(1, 32000),
)
def test_nothing_expected_is_less_than_the_least(
    slug: str, chip: str, precision: str | None, kv_dtype: str, tp: int, batch: int, tokens: int
) -> None:
    try:
        one = one_of(slug, chip, tp, precision, kv_dtype)
    except UsageError:
        return  # above the checkpoint's precision
    assert 0 < least_weight_bytes(one) <= one.weights.read_bytes(batch) * (1 + 1e-9)
    assert least_step_s(one, batch, tokens) <= step_s(one, batch, tokens) * (1 + 1e-9)
    assert least_prefill_flop(one, tokens) <= prefill_flop(one.model, one.weights, tokens) * (1 + 1e-9)
    assert least_prefill_s(one, tokens) <= (prefill_s(one, tokens) or 0.0) * (1 + 1e-9)
