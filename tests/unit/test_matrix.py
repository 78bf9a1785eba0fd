"""Suites expand to the cells that can fit; what cannot is listed with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from partitions.catalog import load_instances, load_models, load_suites
from partitions.cell import CellError, Deployment
from partitions.matrix import expand, explain, kv_bytes_per_rank, new_cells, weight_bytes, why_not
from partitions.rows import GIB, Suite, SuiteRow

RESOLVE = {"local": "local-1a2b3c4d", "engine:llamacpp": "2026.10.11549"}
BF16 = Deployment(dtype="bf16", max_model_len=10240)


def suite(**changes: object) -> Suite:
    row = SuiteRow(
        ("llama-3.1-8b-instruct",), (("g6e.xlarge", (1,)),), "vllm", "0.33.0", BF16, ("fixed.1k1k@1",)
    )
    return Suite("test", "", (replace(row, **changes),))  # type: ignore[arg-type]


def reason(slug: str, instance: str, tp: int, **deployment: object) -> str | None:
    return why_not(load_models()[slug], load_instances()[instance], replace(BF16, tp=tp, **deployment))  # type: ignore[arg-type]


def test_expansion_is_in_file_order_and_unique() -> None:
    two = suite(
        models=("qwen3-8b", "llama-3.1-8b-instruct", "qwen3-8b"),
        instances=(("g6e.12xlarge", (2, 4)), ("g6e.xlarge", (1,))),
        workloads=("prefill.8k@1", "decode.2k@1"),
    )
    keys = [c.key_text for c in expand(two)]
    assert len(keys) == len(set(keys)) == 12
    assert [(c.model, c.instance, c.deployment.tp, c.workload) for c in expand(two)][:5] == [
        ("qwen3-8b", "g6e.12xlarge", 2, "prefill.8k@1"),
        ("qwen3-8b", "g6e.12xlarge", 2, "decode.2k@1"),
        ("qwen3-8b", "g6e.12xlarge", 4, "prefill.8k@1"),
        ("qwen3-8b", "g6e.12xlarge", 4, "decode.2k@1"),
        ("qwen3-8b", "g6e.xlarge", 1, "prefill.8k@1"),
    ]
    assert sum(e.reason.endswith("the same cell as an earlier row") for e in explain(two)) == 6


def test_explain_covers_every_combination_and_agrees_with_expand() -> None:
    for one in load_suites().values():
        told = explain(one, resolve=RESOLVE)
        assert tuple(e.cell for e in told if e.cell) == expand(one, resolve=RESOLVE)
        count = sum(
            len(r.models) * sum(len(tps) for _, tps in r.instances) * len(r.workloads) for r in one.rows
        )
        assert len(told) == count
        assert all(e.reason for e in told)


def test_unresolved_tokens_are_refused_by_name_and_explained() -> None:
    demo = load_suites()["demo"]
    with pytest.raises(CellError, match=r"^instance: 'local' .*resolve\['local'\]"):
        expand(demo)
    with pytest.raises(CellError, match=r"^engine_version: .*resolve\['engine:llamacpp'\]"):
        expand(demo, resolve={"local": "local-1a2b3c4d"})
    assert [e.cell for e in explain(demo)] == [None]
    (cell,) = expand(demo, resolve={**RESOLVE, "revision:smollm2-135m-instruct": "abcdef0"})
    assert (cell.family, cell.engine_version, cell.revision) == ("local", "2026.10.11549", "abcdef0")
    assert cell.deployment.label == "tp1-q4_1"


def test_a_wrong_value_in_a_suite_is_an_error_not_a_left_out_row() -> None:
    with pytest.raises(CellError, match=r"^engine: "):
        explain(suite(engine="v-llm"))


@pytest.mark.parametrize(
    ("slug", "instance", "tp", "says"),
    [
        ("llama-3.1-8b-instruct", "g5.xlarge", 1, None),
        ("llama-3.3-70b-instruct", "g5.xlarge", 1, "needs 136.3 GiB a rank"),
        ("llama-3.3-70b-instruct", "p5.48xlarge", 4, None),
        ("llama-3.1-8b-instruct", "g5.xlarge", 2, "needs 2 ranks, the instance has 1"),
        ("qwen2.5-7b-instruct", "p5.48xlarge", 8, "28 attention heads do not divide by tp 8"),
        ("phi-4", "g5.12xlarge", 4, "10 KV heads"),
        ("llama-3.1-8b-instruct", "inf2.48xlarge", 24, None),  # Neuron pads heads
        ("llama-3.1-8b-instruct", "inf2.48xlarge", 25, "needs 25 ranks"),
        ("llama-3.1-8b-instruct", "trn2.48xlarge", 64, None),  # logical cores
        ("deepseek-r1", "p5.48xlarge", 8, "needs 85.4 GiB a rank"),
        ("deepseek-r1", "p5e.48xlarge", 8, None),
    ],
)
def test_screening(slug: str, instance: str, tp: int, says: str | None) -> None:
    found = reason(slug, instance, tp)
    assert found == says if says is None else found is not None and found.startswith(says)


def test_screening_counts_the_context_and_quantisation_that_loading_applies() -> None:
    assert reason("llama-3.1-8b-instruct", "g5.xlarge", 1, max_model_len=65536)
    assert reason("llama-3.1-8b-instruct", "g5.xlarge", 1, max_model_len=65536, quantization="fp8") is None
    assert "beyond the model's 16384 positions" in (
        reason("phi-4", "g6e.xlarge", 1, max_model_len=32768) or ""
    )
    # With the model's own context as default: 131,072 tokens x 128 KiB = 16 GiB more.
    assert reason("llama-3.1-8b-instruct", "g5.xlarge", 1, max_model_len=None)
    models = load_models()
    # A checkpoint that comes quantised is not quantised again.
    assert weight_bytes(models["deepseek-r1"], Deployment(quantization="fp8")) == 688586727753 - 15424227552
    assert weight_bytes(models["gpt-oss-20b"], Deployment(quantization="mxfp4")) == 13761264768


def test_kv_cache_is_shared_out_until_each_rank_has_one_head() -> None:
    llama, r1 = load_models()["llama-3.1-8b-instruct"], load_models()["deepseek-r1"]
    assert kv_bytes_per_rank(llama, Deployment(tp=1), 1024) == 131072 * 1024
    assert kv_bytes_per_rank(llama, Deployment(tp=8), 1024) == 131072 * 1024 / 8
    assert kv_bytes_per_rank(llama, Deployment(tp=32), 1024) == 131072 * 1024 / 8
    assert kv_bytes_per_rank(llama, Deployment(tp=1, kv_cache_dtype="fp8_e4m3"), 1024) == 131072 * 512
    assert kv_bytes_per_rank(r1, Deployment(tp=8), 1024) == 70272 * 1024  # MLA is replicated


def test_the_catalog_suite_is_what_the_requirements_ask_for() -> None:
    cells = expand(load_suites()["catalog"])
    assert {c.family for c in cells} == {"g5", "g6", "g6e", "p4d", "p5", "p5e", "inf2", "trn1", "trn2"}
    assert 12 <= len({c.model for c in cells}) <= 15
    assert len(cells) >= 50
    instances, models = load_instances(), load_models()
    for cell in cells:
        row, model = instances[cell.instance], models[cell.model]
        held = weight_bytes(model, cell.deployment) / cell.deployment.tp
        assert held < row.memory_bytes_per_rank, cell.key_text
        assert ("neuron" in cell.engine_version) == (row.accelerator_kind == "neuron")
    left_out = [e for e in explain(load_suites()["catalog"]) if e.cell is None]
    assert left_out, "the suite shows what cannot fit, too"
    assert any("GiB a rank" in e.reason for e in left_out)
    assert any("heads" in e.reason for e in left_out)


def test_new_cells_by_family() -> None:
    cells = expand(load_suites()["catalog"]) + expand(load_suites()["demo"], resolve=RESOLVE)
    fresh = new_cells(cells + cells, {})
    assert sum(map(len, fresh.values())) == len(cells)
    assert list(fresh) == ["g5", "g6", "g6e", "p4d", "p5", "p5e", "inf2", "trn1", "trn2", "local"]
    assert new_cells(cells, fresh) == {}
    known = {"local": fresh["local"], "g5": fresh["g5"][1:]}
    again = new_cells(cells, known)
    assert again["g5"] == fresh["g5"][:1]
    assert "local" not in again


def test_screening_rule_by_hand() -> None:
    # 8.03e9 x 2 B + 8 % of the memory + 10,240 x 131,072 B: 14.96 + 1.25 GiB in 92 %
    model = load_models()["llama-3.1-8b-instruct"]
    need = (16060522496 + 10240 * 131072) / GIB / 0.92
    assert need == pytest.approx(17.616, abs=1e-3)
    small = load_instances()["g5.xlarge"]
    just_enough = replace(small, accelerator=replace(small.accelerator, memory_mib=int(need * 1024) + 1))
    too_small = replace(small, accelerator=replace(small.accelerator, memory_mib=int(need * 1024) - 1))
    assert why_not(model, just_enough, BF16) is None
    assert why_not(model, too_small, BF16) is not None
