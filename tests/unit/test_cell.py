"""Keys are readable, canonical and for ever; every invalid field is named."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions.cell import BenchmarkCell, CellError, CellKey, Deployment, families, family_of

WORD = st.from_regex(r"[a-z0-9][a-z0-9_]{0,8}", fullmatch=True)
ARGS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9-]{0,11}", fullmatch=True).filter(
        lambda n: "token" not in n and "passw" not in n
    ),
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=12).filter(
        str.isprintable
    ),
    max_size=4,
)
COUNT = st.integers(1, 64)
DEPLOYMENTS = st.builds(
    Deployment,
    tp=COUNT,
    pp=COUNT,
    dp=COUNT,
    ep=COUNT,
    replicas=COUNT,
    dtype=st.sampled_from(["auto", "bf16", "fp16", "fp32"]),
    quantization=WORD,
    kv_cache_dtype=WORD,
    max_model_len=st.none() | st.integers(1, 2**20),
    prefix_caching=st.none() | st.booleans(),
    router=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True),
    args=ARGS.map(lambda d: tuple(d.items())),
)
NO_DOTS = lambda text: "..." not in text  # noqa: E731
CELLS = st.builds(
    BenchmarkCell,
    model=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,30}", fullmatch=True).filter(NO_DOTS),
    revision=st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True) | st.sampled_from(["unstated", "unpinned"]),
    instance=st.sampled_from(["g5.xlarge", "g6e.48xlarge", "p6-b200.48xlarge", "trn2.3xlarge"])
    | st.from_regex(r"(local|endpoint)-[0-9a-f]{8}", fullmatch=True),
    engine=st.sampled_from(["vllm", "llamacpp", "sglang", "truth", "openai"]),
    engine_version=st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,20}", fullmatch=True).filter(NO_DOTS),
    deployment=DEPLOYMENTS,
    workload=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,15}@[1-9][0-9]{0,2}", fullmatch=True).filter(NO_DOTS),
)
GOOD = BenchmarkCell(
    "llama-3.1-8b-instruct",
    "0e9e39f",
    "g6e.xlarge",
    "vllm",
    "0.33.0",
    Deployment(dtype="bf16", max_model_len=10240),
    "fixed.1k1k@1",
)
RICH = BenchmarkCell(
    "deepseek-r1",
    "56d4cbbb4d29f4355bab4b9a39ccb717a14ad5ad",
    "p6-b200.48xlarge",
    "vllm",
    "0.24.0-neuron2.32+cu12",
    Deployment(
        tp=8,
        pp=2,
        ep=8,
        replicas=2,
        quantization="fp8",
        kv_cache_dtype="fp8",
        max_model_len=32768,
        prefix_caching=False,
        router="round-robin",
        args=(("max-num-seqs", "256"), ("block-size", "64")),
    ),
    "prd.chat@12",
)


@pytest.mark.parametrize(
    ("cell", "key", "cell_id"),
    [
        (
            GOOD,
            "llama-3.1-8b-instruct@0e9e39f~g6e.xlarge~vllm-0.33.0~tp1-bf16-4e06a940~fixed.1k1k@1",
            "396e8ef6c659",
        ),
        (
            RICH,
            "deepseek-r1@56d4cbbb4d29f4355bab4b9a39ccb717a14ad5ad~p6-b200.48xlarge~vllm-0.24.0-neuron2.32+cu12"
            "~tp8-pp2-ep8-r2-fp8-e7e46077~prd.chat@12",
            "a6440a51a10a",
        ),
    ],
)
def test_frozen_keys_never_change(cell: BenchmarkCell, key: str, cell_id: str) -> None:
    # These are in lakes out there. If this fails, the change is wrong, not the expectation.
    assert cell.key_text == key
    assert cell.cell_id == cell_id


@settings(deadline=None)
@given(CELLS)
def test_key_and_document_round_trip(cell: BenchmarkCell) -> None:
    key = CellKey.parse(cell.key_text)
    assert key == cell.key
    assert key.text == str(key) == cell.key_text
    assert BenchmarkCell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    assert len(key.text) <= 250
    assert set(key.text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._+@~-")
    assert "..." not in key.text
    assert key.family == cell.family
    assert cell.family in families()


@settings(deadline=None)
@given(DEPLOYMENTS, st.randoms())
def test_digest_ignores_the_order_of_arguments(deployment: Deployment, random: object) -> None:
    shuffled = list(deployment.args)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = dataclasses.replace(deployment, args=tuple(shuffled))
    assert again == deployment
    assert again.digest == deployment.digest
    document = deployment.to_dict()
    reversed_document = dict(reversed(document.items())) | {"args": dict(deployment.args)}
    assert Deployment.from_dict(reversed_document).canonical_json() == deployment.canonical_json()


@settings(deadline=None)
@given(DEPLOYMENTS, DEPLOYMENTS)
def test_canonical_json_tells_deployments_apart_and_is_canonical(a: Deployment, b: Deployment) -> None:
    assert (a == b) == (a.canonical_json() == b.canonical_json())
    parsed = json.loads(a.canonical_json())
    assert json.dumps(parsed, sort_keys=True, separators=(",", ":")) == a.canonical_json()
    assert Deployment.from_dict(parsed) == a  # what is left out is the default


def test_canonical_json_leaves_out_defaults_only() -> None:
    assert Deployment().canonical_json() == "{}"
    assert json.loads(RICH.canonical_json())["deployment"].keys() == {
        "tp",
        "pp",
        "ep",
        "replicas",
        "quantization",
        "kv_cache_dtype",
        "max_model_len",
        "prefix_caching",
        "router",
        "args",
    }


def test_digests_do_not_depend_on_the_process() -> None:
    code = f"from partitions.cell import *; print(BenchmarkCell.from_dict({RICH.to_dict()!r}).cell_id)"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180, env=env
    )
    assert out.stdout.strip() == RICH.cell_id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(f, v) for f in ("tp", "pp", "dp", "ep", "replicas") for v in (0, -1, 1.0, True, "1", None)],
        ("max_model_len", 0),
        ("max_model_len", 8192.0),
        ("dtype", "int8"),
        ("dtype", "BF16"),
        ("quantization", "FP8"),
        ("quantization", "a-b"),
        ("quantization", ""),
        ("kv_cache_dtype", None),
        ("prefix_caching", 1),
        ("router", "round robin"),
        ("args", "x"),
        ("args", (("a",),)),
        ("args", (("a", 1),)),
        ("args", (("--a", "1"),)),
        ("args", (("a", "1"), ("a", "2"))),
        ("args", (("a", "1\n2"),)),
        ("args", (("api-key", "x"),)),
        ("args", (("hf_token", "x"),)),
    ],
)
def test_an_invalid_deployment_field_is_named(field: str, value: object) -> None:
    with pytest.raises(CellError, match=f"^{field}: ") as caught:
        Deployment(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_arguments_that_only_count_tokens_are_no_secrets() -> None:
    args = (("max-num-batched-tokens", "8192"), ("tokenizer-mode", "auto"))
    assert Deployment(args=args).args == args


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "Llama"),
        ("model", "a/b"),
        ("model", "a...b"),
        ("model", ""),
        ("model", "a|b"),
        ("revision", "0e9e39"),
        ("revision", "main"),
        ("revision", "0" * 41),
        ("revision", "un-stated"),
        ("instance", "local"),
        ("instance", "local-xyz"),
        ("instance", "m5.large"),
        ("instance", "g6e"),
        ("instance", "G6E.xlarge"),
        ("instance", 3),
        ("engine", "my-engine"),
        ("engine", "vLLM"),
        ("engine_version", "0.33.0~1"),
        ("engine_version", "0...1"),
        ("engine_version", ""),
        ("workload", "prd.chat"),
        ("workload", "prd.chat@0"),
        ("workload", "Prd@1"),
        ("deployment", {"tp": 1}),
    ],
)
def test_an_invalid_cell_field_is_named(field: str, value: object) -> None:
    with pytest.raises(CellError, match=f"^{field}: ") as caught:
        dataclasses.replace(GOOD, **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "key"),
        ("a~b", "key"),
        (GOOD.key_text + "~x", "key"),
        (GOOD.key_text.replace("@0e9e39f", ""), "revision"),
        (GOOD.key_text.replace("vllm-0.33.0", "vllm"), "engine_version"),
        (GOOD.key_text.replace("tp1-bf16-4e06a940", "tp1"), "digest"),
        (GOOD.key_text.replace("4e06a940", "4E06A940"), "digest"),
        (GOOD.key_text.replace("tp1-bf16", "bf16"), "label"),
        (GOOD.key_text.replace("g6e", "q9"), "instance"),
        (GOOD.key_text.replace("fixed.1k1k@1", "fixed"), "workload"),
        (GOOD.key_text.replace("0.33.0", "0" * 200), "key"),
    ],
)
def test_a_key_that_does_not_parse_names_the_field(text: str, field: str) -> None:
    with pytest.raises(CellError) as caught:
        CellKey.parse(text)
    assert caught.value.field == field


@settings(deadline=None)
@given(st.text(max_size=80))
def test_parsing_any_text_fails_cleanly_or_round_trips(text: str) -> None:
    try:
        key = CellKey.parse(text)
    except CellError:
        return  # the only way to fail
    assert key.text == text


def test_documents_with_missing_or_unknown_fields_are_refused() -> None:
    document = GOOD.to_dict()
    with pytest.raises(CellError, match=r"^workload: is missing"):
        BenchmarkCell.from_dict({k: v for k, v in document.items() if k != "workload"})
    with pytest.raises(CellError, match=r"^color: "):
        BenchmarkCell.from_dict({**document, "color": "red"})
    with pytest.raises(CellError, match=r"^gpus: "):
        Deployment.from_dict({"gpus": 8})
    with pytest.raises(CellError, match=r"^deployment: "):
        Deployment.from_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("instance", "family"),
    [
        ("local-1a2b3c4d", "local"),
        ("endpoint-0011223344556677", "endpoint"),
        ("g6e.xlarge", "g6e"),
        ("p6-b200.48xlarge", "p6"),
        ("p5en.48xlarge", "p5en"),
        ("gr6.4xlarge", "gr6"),
        ("trn2.3xlarge", "trn2"),
    ],
)
def test_family_of(instance: str, family: str) -> None:
    assert family_of(instance) == family


def test_families_are_stable() -> None:
    assert families() == (
        *("g5", "g6", "g6e", "g7e", "gr6", "p4d", "p4de", "p5", "p5e", "p5en", "p6"),
        *("inf2", "trn1", "trn1n", "trn2", "local", "endpoint"),
    )
