"""Weights against the published sizes of models, and what loading at another precision makes of them."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.engines.container import quantize_to
from accelbench_assets.errors import LaunchError, UsageError
from accelbench_assets.sizing import loading
from accelbench_assets.sizing.ask import Ask, find_instances
from accelbench_assets.sizing.deployed import Unsized, served
from accelbench_assets.sizing.fit import Sizer
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
from partitions.catalog import load_instances, load_models
from partitions.cell import BenchmarkCell, Deployment
from partitions.rows import GIB, InstanceRow, ModelRow
from tests.support.optional import VLLM_PYTHON, needs_vllm

MODELS = load_models()
LLAMA = MODELS["llama-3.1-8b-instruct"]
METHODS = "lib/python3*/site-packages/vllm/model_executor/layers/quantization/__init__.py"

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
    # MXFP4 experts, the rest at 16 bits.
    assert weights_of(MODELS["gpt-oss-120b"]).total_bytes == 65_248_815_744
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


# -- what the engine makes while loading ---------------------------------------------------------------------


def chips() -> dict[str, InstanceRow]:
    """An instance of every GPU."""
    rows = (row for row in load_instances().values() if row.accelerator_kind == "gpu")
    return {row.accelerator.id: row for row in rows}


def cell(quantization: str, instance: str = "p5.4xlarge", slug: str = LLAMA.slug) -> BenchmarkCell:
    deployment = Deployment(quantization=quantization, max_model_len=4096)
    return BenchmarkCell(slug, MODELS[slug].revision, instance, "vllm", "0.33.0", deployment, "fixed.1k1k@1")


def test_the_compute_capability_of_every_gpu_of_the_catalog_is_known() -> None:
    for row in load_instances().values():
        known = row.accelerator.compute_capability is not None
        assert known == (row.accelerator_kind == "gpu"), row.instance_type


def test_int8_is_never_made_while_loading() -> None:
    for slug, model in MODELS.items():
        if native(model) == "bf16":
            assert weights_of(model, "int8").how == "another checkpoint", slug
            assert weights_of(model, "fp8").how == "at load", slug


def test_an_answer_that_was_not_asked_for_int8_has_none() -> None:
    for row in chips().values():
        for slug in (
            "llama-3.1-405b-instruct",
            "llama-3.3-70b-instruct",
            "phi-4",
            "deepseek-r1",
            "gpt-oss-120b",
        ):
            ask = Ask(MODELS[slug], (row,), isl=1024, osl=256)
            tried = Sizer(ask).on(row)
            if tried.option is not None:
                assert tried.option.way.weights.precision != "int8"
            assert len(set(Sizer(ask).precisions(row.accelerator))) == len(
                Sizer(ask).precisions(row.accelerator)
            )


def test_int8_says_that_it_needs_its_checkpoint_and_is_not_served_on_blackwell() -> None:
    ask = Ask(LLAMA, find_instances(None), isl=1024, osl=256, quantization="int8")
    for name, row in chips().items():
        tried = Sizer(ask).on(row)
        if name in ("b200", "b300", "rtx-pro-6000"):
            assert tried.option is None
            assert tried.reason.code == "not_served"
            assert "no INT8 on compute capability 10.0 and up" in tried.reason.text
        elif tried.option is not None:
            assert any("Needs a int8 checkpoint" in note for note in tried.option.warnings)


def test_fp8_without_fp8_units_is_made_at_load_and_says_what_it_costs() -> None:
    row = load_instances()["p4de.24xlarge"]
    found = Sizer(Ask(MODELS["llama-3.1-405b-instruct"], (row,), isl=1024, osl=256)).on(row).option
    assert found is not None
    assert (found.way.weights.precision, found.way.weights.how) == ("fp8", "at load")
    assert any("widened to 16 bits" in note for note in found.warnings)


@pytest.mark.parametrize("quantization", ["int8", "int4", "awq", "gptq", "nf4", "nvfp4", "q4_k", "bf16"])
def test_a_launch_is_refused_where_the_engine_would_refuse_its_argument(quantization: str) -> None:
    with pytest.raises(LaunchError, match="is not quantised: vLLM makes no") as caught:
        quantize_to(cell(quantization))
    assert caught.value.code == "wrong_weights"
    with pytest.raises(Unsized, match=r"vLLM makes no|not a known precision"):
        served(cell(quantization))


@pytest.mark.parametrize(
    ("quantization", "instance", "slug", "says"),
    [
        (
            "experts_int8",
            "p5.48xlarge",
            "llama-3.1-8b-instruct",
            "experts only, and llama-3.1-8b-instruct has none",
        ),
        ("experts_int8", "p6-b200.48xlarge", "qwen3-30b-a3b", "compute capability 10.0"),
        ("mxfp8", "p5.48xlarge", "qwen3-30b-a3b", "compute capability 9.0"),
        ("nvfp4_per_token", "g7e.2xlarge", "qwen3-30b-a3b", "compute capability 12.0"),
    ],
)
def test_methods_have_their_models_and_their_chips(
    quantization: str, instance: str, slug: str, says: str
) -> None:
    with pytest.raises(LaunchError, match=says):
        quantize_to(cell(quantization, instance, slug))


def test_what_the_engine_makes_is_told_by_its_own_name() -> None:
    assert quantize_to(cell("none")) is None
    assert quantize_to(cell("fp8", "g5.xlarge")) == "fp8_per_tensor"
    assert quantize_to(replace(cell("fp8"), engine_version="0.11.0")) == "fp8"
    assert quantize_to(cell("experts_int8", slug="qwen3-30b-a3b")) == "experts_int8"
    # A model without a row: its checkpoint may be so already, which the engine accepts.
    assert quantize_to(replace(cell("awq"), model="mine")) == "awq"
    with pytest.raises(LaunchError, match="no int8 while loading"):
        quantize_to(replace(cell("int8"), model="mine"))


@needs_vllm
def test_the_engine_knows_every_name_that_it_may_be_told() -> None:
    (methods,) = VLLM_PYTHON.parents[1].glob(METHODS)
    names = set(re.findall(r'"([a-z0-9_-]+)"', methods.read_text().partition("method_to_config")[0]))
    for method in (*loading.AT_LOAD_METHODS, *loading.CHECKPOINT_METHODS):
        told = loading.flag(method, "0.32.0")
        assert told in names | {"mxfp4"}, told
    assert not names & {"int8", "int4", "nf4", "bitsandbytes", "gguf"}
