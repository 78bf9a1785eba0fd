"""Floors of the methodology's table, ceilings, and the shapes of the formulas."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.sizing.bounds import ceiling_output_tok_s
from accelbench_assets.sizing.estimate import estimate, within
from accelbench_assets.sizing.priors import NEURON, NVIDIA, WIDEST, priors_of
from accelbench_assets.sizing.roofline import (
    Efficiency,
    links_s,
    multiplies_fp8,
    prefill_flop,
    prefill_s,
    replica,
    step_s,
)
from accelbench_assets.sizing.weights import weights_of
from partitions.catalog import load_instances, load_models

CHIPS = {row.accelerator.id: row.accelerator for row in load_instances().values()}
M = load_models()
LLAMA = M["llama-3.1-8b-instruct"]

# chip, decode ms of 8.03e9 parameters at 16 bits and batch 1, its tok/s, prefill ms of 1,024 tokens, FLOP per byte
FLOORS = [
    ("a10g", 26.77, 37.4, 234.9, 117),
    ("l4", 53.53, 18.7, 135.9, 403),
    ("l40s", 18.59, 53.8, 45.4, 419),
    ("a100-40", 10.33, 96.8, 52.7, 201),
    ("a100-80", 7.88, 127.0, 52.7, 153),
    ("h100", 4.79, 208.6, 16.6, 295),
    ("h200", 3.35, 298.9, 16.6, 206),
    ("b200", 2.01, 498.1, 7.3, 281),
    ("inferentia2", 19.59, 51.1, 86.6, 232),
    ("trainium1", 19.59, 51.1, 86.6, 232),
    ("trainium2", 5.54, 180.6, 24.7, 230),
]


@pytest.mark.parametrize(("chip", "decode", "rate", "prefill", "ridge"), FLOORS)
def test_floor_table(chip: str, decode: float, rate: float, prefill: float, ridge: int) -> None:
    """Of one whole device at its nominal peaks."""
    one = replica(LLAMA, weights_of(LLAMA), CHIPS[chip], CHIPS[chip].tp_ranks)
    assert one is not None
    assert one.flops is not None
    step_s = 2 * 8.03e9 / one.bandwidth
    assert step_s * 1e3 == pytest.approx(decode, abs=0.006)
    assert 1 / step_s == pytest.approx(rate, abs=0.06)
    assert 2 * 8.03e9 * 1024 / one.flops * 1e3 == pytest.approx(prefill, abs=0.06)
    assert round(one.flops / one.bandwidth) == ridge


def test_an_unpublished_rate_is_not_guessed() -> None:
    chip = replace(CHIPS["l40s"], bf16_tflops=None, fp8_tflops=None)
    one = replica(LLAMA, weights_of(LLAMA), chip, 1)
    assert one is not None
    assert prefill_s(one, 1024) is None
    found = estimate(one, NVIDIA, 4, 1024, 256)
    assert found.ttft_ms is None
    assert found.output_tok_s is None
    assert found.tpot_ms.low > 0
    assert replica(LLAMA, weights_of(LLAMA), replace(chip, memory_bandwidth_gb_s=None), 1) is None


def test_links_cost_twice_a_layer_and_are_left_out_where_unknown() -> None:
    nvlink = replica(LLAMA, weights_of(LLAMA), CHIPS["h100"], 8)
    pcie = replica(LLAMA, weights_of(LLAMA), CHIPS["l40s"], 4)
    core = replica(LLAMA, weights_of(LLAMA), CHIPS["trainium2"], 8)
    assert nvlink is not None
    assert pcie is not None
    assert core is not None
    size = 1000 * 4096 * 2
    each = 2 * 7 / 8 * size / 450e9 + 6.6e-6 + 14 * 0.6e-6
    assert links_s(nvlink, 1000) == pytest.approx(64 * each)
    assert links_s(pcie, 1000) > links_s(nvlink, 1000)
    assert links_s(core, 1000) == 0.0
    assert nvlink.links_known
    assert not core.links_known


def test_attention_of_a_prompt() -> None:
    weights = weights_of(LLAMA)
    linear = 2 * weights.read_parameters * 4096
    assert prefill_flop(LLAMA, weights, 4096) == pytest.approx(linear + 2 * 32 * 32 * 128 * 4096**2)
    windowed = replace(LLAMA, full_attention_layers=0, sliding_window=128)
    assert prefill_flop(windowed, weights, 4096) == pytest.approx(linear + 2 * 32 * 32 * 128 * 256 * 4096)


def test_fp8_products_only_where_there_are_units() -> None:
    weights = weights_of(LLAMA, "fp8")
    assert multiplies_fp8(weights, CHIPS["h100"])
    assert not multiplies_fp8(weights, CHIPS["a100-80"])
    assert not multiplies_fp8(weights_of(LLAMA, "int8"), CHIPS["h100"])
    assert not multiplies_fp8(weights, CHIPS["trainium2"])


@given(
    slug=st.sampled_from(
        ["llama-3.1-8b-instruct", "qwen3-235b-a22b", "deepseek-r1", "gpt-oss-120b", "gemma-3-27b-it"]
    ),
    chip=st.sampled_from([row[0] for row in FLOORS]),
    tp=st.sampled_from([1, 4, 8]),
    batch=st.integers(1, 512),
    isl=st.integers(1, 16000),
    osl=st.integers(2, 4000),
)
def test_estimates_lie_under_the_ceiling_and_are_no_wider_than_four(
    slug: str, chip: str, tp: int, batch: int, isl: int, osl: int
) -> None:
    one = replica(M[slug], weights_of(M[slug]), CHIPS[chip], tp)
    assert one is not None
    found = estimate(one, priors_of(CHIPS[chip].kind), batch, isl, osl)
    assert found.output_tok_s is not None
    assert found.ttft_ms is not None
    for interval in (found.output_tok_s, found.ttft_ms, found.tpot_ms):
        assert 0 < interval.low <= interval.middle <= interval.high
        assert interval.ratio <= WIDEST * (1 + 1e-9)
    assert found.output_tok_s.high <= found.ceiling_output_tok_s * (1 + 1e-9)
    assert found.ceiling_output_tok_s <= ceiling_output_tok_s(one, batch + 1, isl, osl) * (1 + 1e-9)
    assert step_s(one, batch, isl) <= step_s(one, batch + 1, isl)
    assert step_s(one, batch, isl) <= step_s(one, batch, isl, Efficiency(0.5, 0.5, 1e-3, links=True))


@pytest.mark.parametrize(("limit", "most_ms"), [("tpot_ms", 1), ("ttft_ms", 10), ("e2e_ms", 256)])
@given(each=st.floats(5, 400), most=st.integers(1, 1024))
def test_the_largest_concurrency_is_the_largest(limit: str, most_ms: int, each: float, most: int) -> None:
    one = replica(LLAMA, weights_of(LLAMA), CHIPS["l40s"], 1)
    assert one is not None
    limits = {"ttft_ms": None, "tpot_ms": None, limit: most_ms * each}

    def meets(batch: int) -> bool:
        return within(one, NVIDIA, batch, 1024, 256, **limits) == batch

    found = within(one, NVIDIA, most, 1024, 256, **limits)
    assert 0 <= found <= most
    assert found == 0 or meets(found)
    assert found == most or not meets(found + 1)


def test_a_ttft_that_cannot_be_estimated_meets_no_limit_it_is_part_of() -> None:
    """End to end is TTFT and decode: an unknown TTFT taken as 0 would promise a time that nobody has estimated."""
    chip = replace(CHIPS["l40s"], bf16_tflops=None, fp8_tflops=None)
    one = replica(LLAMA, weights_of(LLAMA), chip, 1)
    assert one is not None
    ask = {"ttft_ms": None, "tpot_ms": None}
    assert within(one, NVIDIA, 8, 1024, 256, **ask) == 8
    assert within(one, NVIDIA, 8, 1024, 256, **{**ask, "tpot_ms": 1e6}) == 8
    assert within(one, NVIDIA, 8, 1024, 256, **{**ask, "ttft_ms": 1e9}) == 0
    assert within(one, NVIDIA, 8, 1024, 256, **ask, e2e_ms=1e9) == 0


def test_an_end_to_end_limit_is_ttft_and_the_tokens_after_the_first() -> None:
    one = replica(LLAMA, weights_of(LLAMA), CHIPS["l40s"], 1)
    assert one is not None
    for osl in (1, 256):
        found = estimate(one, NVIDIA, 8, 1024, osl)
        assert found.ttft_ms is not None
        whole_ms = found.ttft_ms.middle + (osl - 1) * found.tpot_ms.middle
        for limit_ms, most in ((whole_ms * (1 + 1e-9), 8), (whole_ms * (1 - 1e-9), 7)):
            assert within(one, NVIDIA, 64, 1024, osl, ttft_ms=None, tpot_ms=None, e2e_ms=limit_ms) == most


def test_priors_are_the_methodologys() -> None:
    assert (NVIDIA.mfu.low, NVIDIA.mfu.middle, NVIDIA.mfu.high) == (0.30, 0.45, 0.60)
    assert (NVIDIA.mbu.low, NVIDIA.mbu.middle, NVIDIA.mbu.high) == (0.50, 0.65, 0.80)
    assert (NEURON.mfu.middle, NEURON.mbu.middle) == (0.30, 0.50)
    assert (NVIDIA.host_s.low, NVIDIA.host_s.high) == (0.0002, 0.001)
    assert NVIDIA.runs == NEURON.runs == 0
