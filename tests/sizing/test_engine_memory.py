"""vLLM's accounting, restated from MiB with whole blocks, and how that differs from rounded GiB."""

import math
from dataclasses import replace

import pytest

from accelbench_assets.sizing.engine_memory import (
    Batching,
    NonKv,
    activations,
    batching,
    non_kv,
    pool,
)
from accelbench_assets.sizing.weights import weights_of
from partitions.catalog import load_instances, load_models
from partitions.rows import GIB

CHIPS = {row.accelerator.id: row.accelerator for row in load_instances().values()}
MODELS = load_models()
LLAMA = MODELS["llama-3.1-8b-instruct"]
TWO_GIB = NonKv(2 * GIB, 2 * GIB, 2 * GIB)

# chip: MiB of the EC2 API, GiB as rounded in the methodology, its figure, and ours
WORKED = [
    ("a10g", 22888, 22.35, 29531, 1846, 29536),
    ("l40s", 45776, 44.70, 197975, 12374, 197984),
    ("h100", 81920, 80.00, 464019, 29000, 464000),
]


@pytest.mark.parametrize(("chip", "mib", "gib", "rounded", "blocks", "tokens"), WORKED)
def test_worked_checks_restated(
    chip: str, mib: int, gib: float, rounded: int, blocks: int, tokens: int
) -> None:
    """Llama-3.1-8B, 0.92, 2 GiB beside: the methodology's figures come from memory rounded to 0.01 GiB, weights of 2 x
    8.03e9 B, and no blocks. From MiB, the checkpoint's 16,060,522,496 B and blocks of 16 they are these integers."""
    assert int((0.92 * gib * GIB - 2 * 8.03e9 - 2 * GIB) / 131072) == rounded
    assert CHIPS[chip].memory_mib == mib
    held = pool(LLAMA, CHIPS[chip], weights_of(LLAMA), max_model_len=8192, beside=TWO_GIB)
    assert held.requested_bytes == math.ceil(mib * 2**20 * 0.92)
    assert held.pool_bytes == held.requested_bytes - 16_060_522_496 - 2 * GIB
    assert (held.block_bytes, held.blocks, held.blocks * 16) == (2_097_152, blocks, tokens)
    assert held.tokens == tokens  # 8,192 is a whole number of blocks, so vLLM's own figure is the same
    assert tokens % 16 == 0


def test_a_length_that_is_no_whole_number_of_blocks_wastes_the_rest() -> None:
    """vLLM's figure is requests of the full length times that length: 1,000 tokens take 63 blocks, 1,008 tokens."""
    held = pool(LLAMA, CHIPS["a10g"], weights_of(LLAMA), max_model_len=1000, beside=TWO_GIB)
    assert held.blocks_per_request == 63
    assert held.max_concurrency == 1846 / 63
    assert held.tokens == int(1846 / 63 * 1000) == 29301


def test_ranks_share_the_heads() -> None:
    alone = pool(LLAMA, CHIPS["l40s"], weights_of(LLAMA), max_model_len=4096, beside=TWO_GIB)
    four = pool(LLAMA, CHIPS["l40s"], weights_of(LLAMA), tp=4, max_model_len=4096, beside=TWO_GIB)
    assert four.block_bytes * 4 == alone.block_bytes
    assert four.blocks > 4 * alone.blocks  # weights are shared too
    latent = load_models()["deepseek-r1"]
    held = pool(latent, CHIPS["h200"], weights_of(latent), tp=8, max_model_len=4096)
    assert held.block_bytes == 61 * 576 * 2 * 16  # MLA: nothing is shared out


def test_a_model_that_does_not_fit_has_no_blocks() -> None:
    big = load_models()["llama-3.3-70b-instruct"]
    held = pool(big, CHIPS["h100"], weights_of(big), max_model_len=4096)
    assert held.pool_bytes < 0
    assert held.blocks == 0
    assert not held.holds_one
    long = pool(LLAMA, CHIPS["a10g"], weights_of(LLAMA), max_model_len=131072, beside=TWO_GIB)
    assert long.blocks == 1846
    assert not long.holds_one  # the cache is there, but not for one request of this length


@pytest.mark.parametrize(
    ("chip", "tokens", "sequences"),
    [
        ("a10g", 2048, 256),
        ("l40s", 2048, 256),
        ("a100-80", 2048, 256),  # its memory would allow more; vLLM excludes A100 by name
        ("h100", 8192, 1024),
        ("h200", 8192, 1024),
        ("b200", 16384, 1024),
        ("rtx-pro-6000", 8192, 1024),
    ],
)
def test_defaults_follow_the_devices_memory(chip: str, tokens: int, sequences: int) -> None:
    assert batching(CHIPS[chip]) == Batching(tokens, sequences, 2)


def test_the_bound_on_everything_else() -> None:
    limits = Batching(2048, 256)
    step = 2048 * 2 * (4 * 4096 + 3 * 14336) + 256 * 128256 * 4
    assert activations(LLAMA, 1, limits) == step
    alone, shared = non_kv(LLAMA, CHIPS["a10g"], 1, limits), non_kv(LLAMA, CHIPS["a10g"], 4, limits)
    assert alone.low < alone.middle < alone.high
    assert alone.middle - step == round((0.65 + 0.9) * GIB)
    assert shared.middle - activations(LLAMA, 4, limits) == round((0.65 + 0.9 + 0.3) * GIB)
    experts = replace(LLAMA, experts=8, experts_per_token=2)
    assert activations(experts, 1, limits) > step


def test_layers_for_speculation_are_not_resident() -> None:
    """vLLM skips them unless it decodes speculatively: 15.4 GB less over eight ranks, of a checkpoint of 688.6."""
    r1, chip = MODELS["deepseek-r1"], CHIPS["h200"]
    with_them = replace(r1, speculative_bytes=0)
    less, more = (
        pool(row, chip, weights_of(row), tp=8, max_model_len=8192).weight_bytes for row in (r1, with_them)
    )
    assert more - less == pytest.approx(15_424_227_552 / 8, abs=2)
    tower = MODELS["gemma-3-27b-it"]  # an image tower is loaded
    assert pool(tower, chip, weights_of(tower), max_model_len=8192).weight_bytes == tower.weight_bytes


def test_projections_are_held_as_often_as_kv_heads_are_kept() -> None:
    """Phi-4 on 4 ranks of Neuron keeps 40 KV heads for 10: its K and V projections exist four times."""
    phi, chip = MODELS["phi-4"], CHIPS["trainium2"]
    held = pool(phi, chip, weights_of(phi), tp=4, max_model_len=8192).weight_bytes
    norms = 2 * (2 * 40 + 1) * 5120
    projections = 2 * 40 * 5120 * 10 * 128 * 2
    assert held == round((phi.weight_bytes - norms + 3 * projections) / 4 + norms)
