"""Names of models: an id stands for the model it names and for no other."""

import pytest

from accelbench_assets.sizing.ask import find_model
from partitions.catalog import load_models

MODELS = load_models()


@pytest.mark.parametrize("slug", sorted(MODELS))
def test_slugs_and_whole_ids_find_their_model_whatever_the_case(slug: str) -> None:
    row = MODELS[slug]
    for wanted in (slug, slug.upper(), row.model_id, row.model_id.lower(), f" {row.model_id} "):
        assert find_model(wanted) is row


@pytest.mark.parametrize(
    "wanted",
    [
        "meta-llama/Llama-3.1-8B",  # the base model: other weights under a name that only lacks the suffix
        "google/gemma-3-27b",
        "whoever/deepseek-r1",
        "whoever/Llama-3.1-8B-Instruct",
        "unsloth/gpt-oss-20b",
        "deepseek-ai/",
        "/phi-4",
        "llama",
        "",
    ],
)
def test_other_organisations_and_other_models_of_one_are_not_taken(wanted: str) -> None:
    assert find_model(wanted) is None


def test_the_ending_of_a_slug_may_be_left_out_where_one_model_is_called_so() -> None:
    assert find_model("Llama-3.1-8B") is MODELS["llama-3.1-8b-instruct"]
    assert find_model("gemma-3-27b") is MODELS["gemma-3-27b-it"]
    # A slug of its own comes before another's short form.
    assert find_model("qwen3-30b-a3b") is MODELS["qwen3-30b-a3b"]
