"""Counts of ranks: what divides, what does not and why, and which Neuron engine serves which chip."""

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.sizing import neuron
from accelbench_assets.sizing.divisibility import tensor_parallel, undividable, warnings
from accelbench_assets.sizing.weights import weights_of
from partitions.catalog import load_instances, load_models

INSTANCES, MODELS = load_instances(), load_models()
CHIPS = {row.accelerator.id: row.accelerator for row in INSTANCES.values()}


@pytest.mark.parametrize(
    ("instance", "counts"),
    [
        ("g5.xlarge", (1,)),
        ("g5.12xlarge", (1, 2, 4)),
        ("p5.48xlarge", (1, 2, 4, 8)),
        ("p5.4xlarge", (1,)),
        ("inf2.xlarge", (1, 2)),
        ("inf2.24xlarge", (1, 2, 4, 8, 12)),
        ("inf2.48xlarge", (1, 2, 4, 8, 12, 24)),
        ("trn1.32xlarge", (1, 2, 8, 16, 32)),
        ("trn2.48xlarge", (4, 8, 16, 32, 64)),
    ],
)
def test_counts_to_try(instance: str, counts: tuple[int, ...]) -> None:
    assert tensor_parallel(INSTANCES[instance]) == counts


def why(model: str, instance: str, tp: int, precision: str | None = None) -> str | None:
    row = MODELS[model]
    return undividable(row, INSTANCES[instance], weights_of(row, precision), tp, 2048)


def test_heads_and_widths() -> None:
    assert why("llama-3.3-70b-instruct", "p5.48xlarge", 8) is None
    assert "28 attention heads do not divide by tp 8" in str(why("qwen2.5-7b-instruct", "p5.48xlarge", 8))
    assert "10 KV heads" in str(why("phi-4", "p5.48xlarge", 4))
    assert "needs 8 ranks, the instance has 4" in str(why("llama-3.3-70b-instruct", "g6e.12xlarge", 8))


def test_memory_is_not_asked_here() -> None:
    assert why("llama-3.3-70b-instruct", "g5.xlarge", 1) is None


def test_a_rank_holds_whole_groups_of_scales() -> None:
    assert why("qwen3-235b-a22b", "p5.48xlarge", 8) is None
    assert "is 192, no multiple of the 128" in str(why("qwen3-235b-a22b", "p5.48xlarge", 8, "int4"))
    assert why("qwen3-235b-a22b", "p5.48xlarge", 4, "int4") is None
    assert "is 3696," in str(why("qwen2.5-72b-instruct", "p5.48xlarge", 8, "awq"))
    assert why("deepseek-r1", "p5en.48xlarge", 8) is None


def test_neuron_pads_heads_instead() -> None:
    assert why("llama-3.1-8b-instruct", "inf2.48xlarge", 24) is None
    row = MODELS["llama-3.1-8b-instruct"]
    notes = " ".join(warnings(row, INSTANCES["inf2.48xlarge"], weights_of(row), 24))
    assert "pads them" in notes
    assert "compiles batch" in notes


def test_warnings() -> None:
    row = MODELS["llama-3.1-8b-instruct"]
    assert "PCIe" in " ".join(warnings(row, INSTANCES["g5.12xlarge"], weights_of(row), 4))
    assert not warnings(row, INSTANCES["g5.12xlarge"], weights_of(row), 2)
    assert not warnings(row, INSTANCES["p5.48xlarge"], weights_of(row), 8)
    assert "checkpoint" in " ".join(warnings(row, INSTANCES["g6e.xlarge"], weights_of(row, "awq"), 1))
    assert "No FP8 units" in " ".join(warnings(row, INSTANCES["p4d.24xlarge"], weights_of(row, "fp8"), 1))


@pytest.mark.parametrize(
    ("chip", "version", "says"),
    [
        ("inferentia2", "0.13-neuron2.28", None),
        ("trainium1", "0.13-neuron2.28", None),
        ("trainium2", "0.13-neuron2.28", None),
        ("trainium2", "0.24.0-neuron2.32", None),
        ("inferentia2", "0.24.0-neuron2.32", "plugin for Trn2 and later"),
        ("trainium1", "0.16-neuron2.29", "no kernels for trainium1"),
        ("trainium2", "0.16-neuron2.34", "ended at SDK 2.34"),
    ],
)
def test_neuron_support_is_by_chip_sdk_and_engine(chip: str, version: str, says: str | None) -> None:
    reason = neuron.not_served(CHIPS[chip], version)
    assert reason is None if says is None else says in str(reason)


def test_the_versions_sized_for_are_served() -> None:
    for chip, version in neuron.VERSIONS.items():
        assert neuron.not_served(CHIPS[chip], version) is None
    with pytest.raises(LaunchError):
        neuron.not_served(CHIPS["trainium2"], "0.33.0")


def test_neuron_says_how_many_kv_heads_it_keeps() -> None:
    phi, big = MODELS["phi-4"], INSTANCES["inf2.48xlarge"]
    assert "10 KV heads and 4 ranks do not divide: the Neuron library keeps 40" in " ".join(
        warnings(phi, big, weights_of(phi), 4)
    )
    assert "divide" not in " ".join(warnings(phi, big, weights_of(phi), 2))
