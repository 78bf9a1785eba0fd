"""The cell grid counts weights in the deployment's precision, by the count that sizing uses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accelbench_assets.sizing.ask import Ask, find_instances
from accelbench_assets.sizing.fit import Misfit, Sizer
from accelbench_assets.sizing.weights import weights_of
from partitions.catalog import load_instances, load_models
from partitions.cell import CellError, Deployment
from partitions.matrix import expand, weight_bytes, why_not
from partitions.rows import ModelRow, Suite, SuiteRow
from partitions.weights import BITS, native, served_bytes

MODELS, INSTANCES = load_models(), load_instances()
NAMES = {"int4": "awq", "fp8": "fp8", "int8": "int8"}


@pytest.mark.parametrize("precision", ["none", "fp8", "int8", "awq", "gptq", "nvfp4", "mxfp4"])
def test_grid_and_sizing_count_the_same_weights(precision: str) -> None:
    for model in MODELS.values():
        if model.quantization == "none":
            assert (
                weight_bytes(model, Deployment(quantization=precision))
                == weights_of(model, precision).total_bytes
            )
        own = Deployment(quantization=model.quantization)
        assert weight_bytes(model, own) == weights_of(model).total_bytes


def test_llama_70b_in_four_bits_is_a_quarter_and_fits_one_l40s() -> None:
    llama, l40s = MODELS["llama-3.3-70b-instruct"], INSTANCES["g6e.xlarge"]
    assert served_bytes(llama, "awq") / 1e9 == pytest.approx(39.8, abs=0.1)
    assert why_not(llama, l40s, Deployment(quantization="awq", max_model_len=2048)) is None
    assert "needs 135.6 GiB a rank" in str(why_not(llama, l40s, Deployment(max_model_len=2048)))


def test_names_that_do_not_tell_their_bits_screen_nothing_out_that_could_start() -> None:
    llama = MODELS["llama-3.1-8b-instruct"]
    fewest = min(bits for bits in BITS.values())
    for name in ("bitsandbytes", "experts_int8", "auto_gptq"):
        assert served_bytes(llama, name) <= llama.parameters * fewest / 8
    assert served_bytes(llama, "fp8_per_block") == served_bytes(llama, "fp8")
    r1 = MODELS["deepseek-r1"]
    assert served_bytes(r1, "none") == served_bytes(r1, "int8") == r1.resident_bytes
    assert served_bytes(r1, "int4") < 0.55 * r1.resident_bytes


def makes_smaller(model: ModelRow, quantization: str) -> bool:
    """Whether the recommender takes the word for *model* at all: nothing is widened."""
    return quantization == "auto" or BITS[quantization] < BITS[native(model)]


@pytest.mark.parametrize("quantization", ["auto", "int4", "int8"])
@pytest.mark.parametrize("context", [None, 32768])
def test_what_the_recommender_finds_to_serve_is_a_cell_of_the_grid(
    quantization: str, context: int | None
) -> None:
    """Every way on one instance of each accelerator and count, not only the best one."""
    kinds = {(i.accelerator.id, i.accelerator_count): i for i in find_instances(None)}
    served = 0
    for model in MODELS.values():
        ask = {"model": model, "instances": tuple(kinds.values()), "isl": 1024, "osl": 256}
        if (context or 0) > model.max_position_embeddings or not makes_smaller(model, quantization):
            continue
        sizer = Sizer(Ask(**ask, quantization=quantization, max_model_len=context))  # type: ignore[arg-type]
        for instance in kinds.values():
            ways = [w for p in sizer.precisions(instance.accelerator) for w in sizer._tries(instance, p)]
            for way in ways:
                if isinstance(way, Misfit):
                    continue
                weights, served = way.weights, served + 1
                named = model.quantization if weights.how == "checkpoint" else NAMES[weights.precision]
                deployment = Deployment(tp=way.tp, max_model_len=sizer.ask.context, quantization=named)
                assert why_not(model, instance, deployment) is None, (model.slug, instance.instance_type, way)
    assert served > 500


def test_a_recommended_four_bit_way_expands_to_a_cell() -> None:
    deployment = Deployment(quantization="awq", max_model_len=2048)
    row = SuiteRow(
        ("llama-3.3-70b-instruct",), (("g6e.xlarge", (1,)),), "vllm", "0.33.0", deployment, ("fixed.1k1k@1",)
    )
    (cell,) = expand(Suite("test", "", (row,)))
    assert cell.key_text.split("~")[3].startswith("tp1-awq-")


def test_a_row_of_the_quantised_checkpoint_is_sized_by_its_own_bytes() -> None:
    awq = replace(MODELS["qwen3-32b"], quantization="awq", weight_bytes=19_300_000_000)
    assert served_bytes(awq, "awq") == 19_300_000_000
    assert why_not(awq, INSTANCES["g5.xlarge"], Deployment(quantization="awq", max_model_len=2048)) is None
    with pytest.raises(CellError):
        served_bytes(replace(awq, quantization="none", dtype="bf17"), "fp8")
