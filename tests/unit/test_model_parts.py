"""Parts of checkpoints that are not served, or not decoded with: their sizes follow from the shapes."""

from __future__ import annotations

import pytest

from partitions.catalog import load_models
from partitions.weights import tables
from tests.unit.test_models import MLA, TIED, TOWER

MODELS = load_models()
HIDDEN = 7168  # of DeepSeek-V3 and R1


def linear(out: int, into: int) -> int:
    """Bytes of a matrix at 8 bits with a 32-bit scale for each block of 128 x 128."""
    return out * into + 4 * -(-out // 128) * -(-into // 128)


def feed_forward(width: int) -> int:
    """Bytes of DeepSeek's gated feed-forward of *width*."""
    return 2 * linear(width, HIDDEN) + linear(HIDDEN, width)


def attention() -> int:
    """Bytes of DeepSeek's latent attention in one layer, and of the layer's norms at 16 bits."""
    queries = linear(1536, HIDDEN) + linear(128 * 192, 1536)
    latent = linear(576, HIDDEN) + linear(128 * 256, 512)
    return queries + latent + linear(HIDDEN, 128 * 128) + 2 * (1536 + 512 + 2 * HIDDEN)


@pytest.mark.parametrize("slug", sorted(MLA))
def test_the_prediction_module_and_the_rest_are_the_checkpoint(slug: str) -> None:
    """To 0.002 %: the files' headers. The module is one more mixture layer, a projection of 2 h x h, three norms, and
    copies of input table and output head."""
    m = MODELS[slug]
    h, table = m.hidden_size, 2 * m.vocab_size * m.hidden_size
    mixture = attention() + 257 * feed_forward(m.intermediate_size) + 2 * 256 * h + 4 * 256
    module = mixture + 2 * 2 * h * h + 2 * 3 * h + 2 * table
    main = 2 * table + 2 * h + 3 * (attention() + feed_forward(18432)) + 58 * mixture
    assert m.speculative_bytes == module
    assert m.resident_bytes == m.weight_bytes - module
    assert m.resident_bytes == pytest.approx(main, rel=2e-5)


def test_only_these_have_towers_or_layers_for_speculation() -> None:
    for m in MODELS.values():
        sees = m.architecture == "Gemma3ForConditionalGeneration"
        assert m.tower_parameters == (TOWER + 1152 * m.hidden_size + 1152 if sees else 0), m.slug
        assert (m.speculative_bytes > 0) == (m.slug in MLA), m.slug
        assert m.resident_bytes == m.weight_bytes or m.speculative_bytes


def test_which_tables_are_read_off_the_count() -> None:
    gemma = {slug for slug, m in MODELS.items() if m.architecture.startswith("Gemma")}
    assert {slug for slug, m in MODELS.items() if tables(m) == 1} == TIED | gemma
