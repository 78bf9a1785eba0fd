"""Configurations as facts: every family's own way to say what a layer keeps, and documents that say anything."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.models.config import ModelConfigError, read_config
from accelbench_assets.models.parameters import count
from accelbench_assets.models.quantization import Quantization
from tests.models import documents as d
from tests.models import hybrids
from tests.models.documents import ALL, Document


@pytest.mark.parametrize(
    ("document", "kind", "layers", "window", "kv_bytes"),
    [
        (d.LLAMA_8B, "gqa", (32, 0, 0), None, 131072),
        (d.QWEN_MOE, "gqa", (48, 0, 0), None, 98304),
        (d.QWEN25_7B, "gqa", (28, 0, 0), None, 57344),  # states a window, and that it is not used
        (d.QWEN2_MOE, "mha", (24, 0, 0), None, 196608),
        (d.DEEPSEEK_R1, "mla", (61, 0, 0), None, 70272),
        (d.DEEPSEEK_LITE, "mla", (27, 0, 0), None, 27 * 576 * 2),
        (d.GPT_OSS, "gqa", (12, 12, 0), 128, 24576),
        (d.GEMMA3_27B, "gqa", (10, 52, 0), 1024, 81920),
        (d.GEMMA3_4B, "gqa", (5, 29, 0), 1024, 5 * 2 * 4 * 256 * 2),
        (d.GEMMA2_9B, "gqa", (21, 21, 0), 4096, 172032),
        (d.MIXTRAL, "gqa", (32, 0, 0), None, 131072),
        (d.PHI_35, "mha", (32, 0, 0), None, 393216),  # a window wider than the context is none
        (d.PHI_4_MINI, "gqa", (32, 0, 0), None, 131072),
        (d.MISTRAL_V01, "gqa", (0, 32, 0), 4096, 0),
        (d.LLAMA4_SCOUT, "gqa", (12, 36, 0), 8192, 49152),
        (hybrids.JAMBA, "gqa", (4, 0, 28), None, 16384),
        (hybrids.NEMOTRON_H, "gqa", (4, 0, 24), None, 16384),
        (hybrids.QWEN3_NEXT, "gqa", (12, 0, 36), None, 24576),
        (hybrids.MAMBA, "none", (0, 0, 64), None, 0),
    ],
)
def test_what_layers_keep(
    document: Document, kind: str, layers: tuple[int, int, int], window: int | None, kv_bytes: int
) -> None:
    config = read_config(document)
    assert config.attention_kind == kind
    assert (config.layers.full, config.layers.window, config.layers.state) == layers
    assert config.layers.window_tokens == window
    assert config.kv_bytes_per_token == kv_bytes


@pytest.mark.parametrize(
    ("document", "total", "active"),
    [
        # The totals are also what transformers builds from these documents (correction biases of routers, which it
        # keeps as buffers, are counted here: 58 x 256 of DeepSeek-R1, 45 x 128 of GLM-4.5-Air).
        (d.LLAMA_8B, 8_030_261_248, 8_030_261_248),
        (d.QWEN_MOE, 30_532_122_624, 3_353_032_704),
        (d.QWEN2_MOE, 14_315_784_192, 2_689_173_504),
        (d.QWEN25_7B, 7_615_616_512, 7_615_616_512),
        (d.DEEPSEEK_R1, 671_026_404_352 + 58 * 256, 37_552_297_472),
        (d.DEEPSEEK_LITE, 15_706_484_224, 2_661_150_208),
        (d.GPT_OSS, 20_914_757_184, 4_187_440_704),  # 3.61 B as published, which leaves the input table out
        (d.GEMMA3_27B, 27_432_406_640, 27_432_406_640),
        (d.GEMMA3_4B, 4_300_079_472, 4_300_079_472),
        (d.GEMMA2_9B, 9_241_705_984, 9_241_705_984),
        (d.MIXTRAL, 46_702_792_704, 12_879_925_248),
        (d.PHI_35, 3_821_079_552, 3_821_079_552),
        (d.PHI_4_MINI, 3_836_021_760, 3_836_021_760),
        (d.OLMO2_7B, 7_298_617_344, 7_298_617_344),
        (d.GLM45_AIR, 106_852_245_504 + 45 * 128, 13_424_129_664),
        (d.MISTRAL_V01, 7_241_732_096, 7_241_732_096),
    ],
)
def test_parameters_of_known_architectures(document: Document, total: int, active: int) -> None:
    counted = count(read_config(document), document)
    assert counted is not None
    assert (counted.total, counted.active) == (total, active)


@pytest.mark.parametrize("name", ["unknown", "jamba", "nemotron_h", "qwen3_next", "mamba", "llama4_scout"])
def test_parameters_of_other_architectures_are_not_attempted(name: str) -> None:
    assert count(read_config(ALL[name]), ALL[name]) is None


@pytest.mark.parametrize(
    ("document", "experts", "layers", "shared_width"),
    [
        (d.MIXTRAL, (8, 2, 14336), 32, 0),
        (d.QWEN_MOE, (128, 8, 768), 48, 0),
        (d.QWEN2_MOE, (60, 4, 1408), 24, 5632),
        (d.DEEPSEEK_R1, (256, 8, 2048), 58, 2048),
        (d.DEEPSEEK_LITE, (64, 6, 1408), 26, 2 * 1408),
        (d.GPT_OSS, (32, 4, 2880), 24, 0),
        (d.GLM45_AIR, (128, 8, 1408), 45, 1408),
        (hybrids.JAMBA, (16, 2, 14336), 16, 0),
        (d.LLAMA4_SCOUT, (16, 1, 8192), 48, 8192),
        (hybrids.QWEN3_NEXT, (512, 10, 512), 48, 512),
        ({**d.LLAMA4_SCOUT["text_config"], "interleave_moe_layer_step": 2}, (16, 1, 8192), 24, 8192),
        ({**d.QWEN_MOE, "decoder_sparse_step": 2, "mlp_only_layers": [1]}, (128, 8, 768), 23, 0),
    ],
)
def test_experts(document: Document, experts: tuple[int, int, int], layers: int, shared_width: int) -> None:
    found = read_config(document).experts
    assert found is not None
    assert (found.count, found.per_token, found.width) == experts
    assert (found.layers, found.shared_width) == (layers, shared_width)


@pytest.mark.parametrize("name", ["llama_8b", "phi_35", "gemma3_27b", "nemotron_h", "mamba"])
def test_a_dense_model_has_no_experts(name: str) -> None:
    assert read_config(ALL[name]).experts is None


def test_what_a_file_leaves_out_is_the_model_types_default_and_said() -> None:
    config = read_config(d.GEMMA3_4B)
    assert (config.attention_heads, config.kv_heads, config.head_dim) == (8, 4, 256)  # not 2560 over heads
    assert (config.vocab_size, config.max_position_embeddings) == (262208, 131072)
    assert "head_dim = 256 is the default of gemma3_text; the file leaves it out" in config.notes
    explicit = read_config({**d.MISTRAL_V01, "sliding_window": None})
    assert explicit.layers.full == 32
    assert explicit.notes == ()
    left_out = {k: v for k, v in d.MISTRAL_V01.items() if k != "sliding_window"}
    assert read_config(left_out).layers.window_tokens == 4096


def test_latent_attention_is_cached_as_one_vector() -> None:
    config = read_config(d.DEEPSEEK_R1)
    assert (config.kv_heads, config.head_dim, config.attention_heads) == (1, 576, 128)
    assert config.kv_bytes_per_layer == 576 * 2
    sparse = read_config({**d.DEEPSEEK_R1, "index_head_dim": 128})
    assert any("index keys" in note for note in sparse.notes)


@pytest.mark.parametrize(
    ("changes", "full", "window", "state"),
    [
        ({"layer_types": ["full_attention"] * 8}, 8, 0, 0),
        ({"layer_types": ["hybrid"] * 8}, 8, 0, 8),
        ({"layer_types": ["conv", "conv", "full_attention", "conv"] * 2}, 2, 0, 6),
        ({"layers_block_type": ["mamba"] * 7 + ["attention"]}, 1, 0, 7),
        (
            {"block_types": ["recurrent", "recurrent", "attention"], "attention_window_size": None},
            2,
            0,
            6,
        ),
        ({"attn_layer_indices": [0, 4]}, 2, 0, 6),
        ({"linear_attn_config": {"full_attn_layers": [4, 8], "kda_layers": [1, 2, 3]}}, 2, 0, 6),
        ({"attn_type_list": [0, 0, 0, 1, 0, 0, 0, 1]}, 2, 0, 6),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, 2, 6, 0),
        ({"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 6}, 6, 2, 0),
        ({"sliding_window": 512, "use_sliding_window": False}, 8, 0, 0),
        ({"attention_chunk_size": 512, "no_rope_layers": [1, 1, 0, 1, 1, 1, 0, 1]}, 2, 6, 0),
        ({"hybrid_override_pattern": "M*-EM*-E"}, 2, 0, 2),
        ({"layer_types": ["full_attention"] * 8, "num_kv_shared_layers": 3}, 5, 0, 0),
    ],
)
def test_the_many_ways_to_name_layers(changes: Document, full: int, window: int, state: int) -> None:
    base = {k: v for k, v in d.UNKNOWN.items() if k != "layer_types"}
    layers = read_config({**base, **changes}).layers
    assert (layers.full, layers.window, layers.state) == (full, window, state)


def test_an_unknown_kind_of_layer_is_named_and_not_counted() -> None:
    config = read_config(d.UNKNOWN)
    assert config.layers.unknown == (("synthetic_attention", 4),)
    assert config.kv_bytes_per_token is None
    assert (
        "layers of the kind 'synthetic_attention' are not known here: what they keep is not counted"
        in config.notes
    )


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (None, Quantization("none")),
        (d.DEEPSEEK_R1["quantization_config"], Quantization("fp8", "fp8", 8, 128)),
        (d.GPT_OSS["quantization_config"], Quantization("mxfp4", "mxfp4", 4)),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
            Quantization("awq", "awq", 4, 128),
        ),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": True},
            Quantization("gptq", "gptq", 8, 32),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "float", "group_size": None}}
                },
            },
            Quantization("fp8", "compressed-tensors", 8),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
            },
            Quantization("int4", "compressed-tensors", 4, 128),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
            },
            Quantization("nvfp4", "compressed-tensors", 4, 16),
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, Quantization("nvfp4", "modelopt", 4)),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            Quantization("nf4", "bitsandbytes", 4, 64),
        ),
        ({"quant_method": "fbgemm_fp8"}, Quantization("fp8", "fbgemm_fp8", 8)),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 128},
            Quantization("int4", "auto_round", 4, 128),
        ),
        ({"quant_method": "synthetic"}, Quantization("synthetic", "synthetic")),
    ],
)
def test_quantisation(quantization: Any, expected: Quantization) -> None:
    found = read_config({**d.LLAMA_8B, "quantization_config": quantization})
    assert found.quantization == expected
    assert any("not known here" in note for note in found.notes) == (expected.scheme == "synthetic")


def test_types_are_said_in_one_way() -> None:
    assert read_config({**d.LLAMA_8B, "torch_dtype": "torch.float16"}).dtype == "fp16"
    assert read_config({**d.LLAMA_8B, "torch_dtype": None, "dtype": "bfloat16"}).dtype == "bf16"
    assert read_config(d.GEMMA3_27B).dtype == "bf16"  # at the outer level
    assert read_config(d.GPT_OSS).dtype is None


def test_old_names_of_fields() -> None:
    config = read_config(
        {
            **{"architectures": ["SyntheticLMHeadModel"], "model_type": "synthetic_old", "n_embd": 768},
            **{"n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257, "multi_query": True},
        }
    )
    assert (config.hidden_size, config.layers.total, config.max_position_embeddings) == (768, 12, 1024)
    assert (config.attention_kind, config.kv_heads, config.head_dim) == ("mqa", 1, 64)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "does not state num_hidden_layers and hidden_size"),
        ({"num_hidden_layers": 2}, "does not state hidden_size"),
        ({"hidden_size": "wide", "num_hidden_layers": 0}, "num_hidden_layers and hidden_size"),
        ({"text_config": {"text_config": {"text_config": {}}}}, "num_hidden_layers"),
    ],
)
def test_a_document_without_a_model_is_refused(document: Document, says: str) -> None:
    with pytest.raises(ModelConfigError, match=says) as caught:
        read_config(document, "synthetic/model")
    assert "synthetic/model" in caught.value.message
    assert caught.value.hint


def test_odd_values_are_ignored_and_said() -> None:
    config = read_config(
        {**d.LLAMA_8B, "num_key_value_heads": "8", "head_dim": -1, "max_position_embeddings": 1.5}
    )
    assert (config.kv_heads, config.head_dim, config.max_position_embeddings) == (32, 128, None)
    assert "num_key_value_heads is '8', which is no count: ignored" in config.notes
    assert any("KV heads are not stated" in note for note in config.notes)


ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=True)
    | st.text(max_size=12)
    | st.sampled_from(["full_attention", "mamba", "M*-", "fp8", "bfloat16"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = sorted(
    {name for one in ALL.values() for name in (*one, *one.get("text_config", {}))}
    | {"layers_block_type", "attn_layer_indices", "num_kv_shared_layers", "moe_layers", "linear_attn_config"}
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(ALL)), st.dictionaries(st.sampled_from(NAMES), ODD, max_size=4), st.booleans())
def test_any_value_anywhere_gives_facts_or_one_sentence(name: str, changes: Document, nested: bool) -> None:
    document = copy.deepcopy(ALL[name])
    target = document["text_config"] if nested and "text_config" in document else document
    target.update(changes)
    check(document)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), ODD, max_size=8))
def test_any_document_gives_facts_or_one_sentence(document: Document) -> None:
    check(document)


def check(document: Document) -> None:
    before = copy.deepcopy(document)
    refusal: AccelBenchError | None = None
    try:
        config = read_config(document, "synthetic/model")
    except AccelBenchError as error:
        refusal = error
    if refusal is not None:
        assert refusal.hint
        return
    assert repr(document) == repr(before)
    layers = config.layers
    known = layers.full + layers.window + layers.nothing + sum(n for _, n in layers.unknown)
    assert 0 <= known <= layers.total
    assert layers.state <= layers.total
    assert layers.window == 0 or layers.window_tokens
    for value in (config.kv_bytes_per_token, config.kv_bytes_per_layer):
        assert value is None or value >= 0
    counted = count(config, document)
    if counted is not None:
        assert 0 < counted.active <= counted.total
    if config.experts:
        assert 1 <= config.experts.per_token <= config.experts.count
        assert 0 <= config.experts.layers <= layers.total
