"""Workload profiles: immutable, checked, importable without heavy libraries; the plan's validation."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import workloads
from loadgen.calibrate import CalibrationResult
from loadgen.plan import Plan, PlanError
from loadgen.source import StepSource

from . import workload_data as made
from .conftest import ENV, make_plan

# A profile never changes: a new version gets a new name. Only additions belong here.
FROZEN = {
    "agent.tools@1": "5f2487895b08ce85",
    "awsstream.c1@1": "27957a4c47f0d61d",
    "azure23.code@1": "a9349de6dc2a9cce",
    "azure23.conv@1": "2a57a606907a3ee5",
    "batch.offline@1": "c1e28bb1395d8225",
    "burst.gamma025@1": "4530082c4fc399ff",
    "burst.step@1": "6ace01023a53d96b",
    "cancel.20@1": "d04f71d50a45787a",
    "cold.start@1": "c167c5a39c90b487",
    "conn.new@1": "4caa20bd523479f5",
    "decode.2k@1": "d8cce247f198af13",
    "demo.chat@1": "4aadb894264e52cc",
    "dria.concurrent@1": "598d5156220bde45",
    "dria.throughput@1": "8b0469a67d5aeed4",
    "fixed.1k1k@1": "24dde833d4760442",
    "fixed.1k8k@1": "4209a241de814c93",
    "fixed.8k1k@1": "aa7f85b43bed5315",
    "gateway.sm@1": "6a727fc0f91a86f1",
    "genaiperf.c10@1": "5448488704bf90c9",
    "genaiperf.c20.t@1": "2a9a83ef5604f320",
    "genaiperf.c20@1": "f63270fe92f3fbbd",
    "ix.1k1k-r80@1": "d15255a847c3d7e9",
    "json.schema@1": "0dd16238fc3e4229",
    "long.128k@1": "10d80b40420d84d4",
    "long.32k@1": "dff8c9a6cd77efea",
    "mlperf.70b-int@1": "a41a2d9dbcaf8a44",
    "mlperf.dsr1-int@1": "603edc5be7fa6761",
    "mlperf.llama8b-int@1": "a24955bebd44c31e",
    "mooncake.agent@1": "cde38c0476e1d564",
    "mooncake.conv@1": "6cab20ff2ef0e51f",
    "mooncake.synth@1": "d48164c5a795c9ec",
    "multimodel.pool@1": "c59e4c2752cccb56",
    "multiturn.chat.roam@1": "cb8855e2ed7a813a",
    "multiturn.chat@1": "654b18b289e10b8a",
    "oha.c12@1": "101bcd0c722f96f9",
    "oha.c24@1": "bb17266f2275840e",
    "oha.c32@1": "b3e0d6b25f2b8878",
    "oha.c6@1": "8d0460cbfc8648b5",
    "oha.ladder-open@1": "9f594ccdb9b4b217",
    "prd.chat@1": "f0df1ae443c792d0",
    "prd.custom@1": "0d2f7a14287f0b61",
    "prefill.8k@1": "91331901ed81de18",
    "rag.6k@1": "8bc4824d652d22df",
    "reason.natural@1": "316137cf0257915c",
    "shared.sys2k@1": "1006965d1039caef",
    "smoke.chat@1": "64892edc28cb14f6",
    "soak.4h@1": "857bb3ae0252edae",
    "spec.natural@1": "4869ea0c48a75f15",
    "vllm.random@1": "d1a0f669f4c8603a",
}
SEEDS = """prd.chat prd.custom oha.c6 oha.c12 oha.c24 oha.c32 oha.ladder-open awsstream.c1 dria.concurrent
    dria.throughput genaiperf.c10 genaiperf.c20 multimodel.pool"""
FIELD = """fixed.1k1k fixed.1k8k fixed.8k1k ix.1k1k-r80 vllm.random prefill.8k decode.2k long.32k long.128k azure23.conv
    azure23.code mooncake.conv mooncake.agent mooncake.synth burst.gamma025 burst.step shared.sys2k rag.6k
    multiturn.chat agent.tools reason.natural json.schema spec.natural batch.offline mlperf.llama8b-int mlperf.70b-int
    mlperf.dsr1-int conn.new cancel.20 soak.4h cold.start gateway.sm"""


def test_packaged_profiles_are_as_they_were_released() -> None:
    assert {name: workloads.load(name).hash[:16] for name in workloads.names()} == FROZEN


def test_the_catalogue_is_whole() -> None:
    assert {f"{name}@1" for name in (SEEDS + " " + FIELD).split()} <= set(workloads.names())


PRIVATE = ("gateway", "starts")  # what no launcher here can set up


@pytest.mark.parametrize("name", list(FROZEN))
def test_every_profile_makes_requests_or_says_what_it_needs(name: str, tmp_path: Path) -> None:
    workload = workloads.load(name)
    files: dict[str, Callable[[Path], Path]] = {
        "sharegpt": made.sharegpt,
        "requests": made.sharegpt,
        "azure-trace": made.azure,
        "mooncake-trace": made.mooncake,
    }
    data = [str(files[need](tmp_path / need)) for need in workload.requires if need in files]
    models = ("a", "b", "c") if "models" in workload.requires else ()
    if workload.requires:
        with pytest.raises(PlanError, match=f"{name}: it needs "):
            workloads.check_runnable(workload)
    plan = make_plan("http://127.0.0.1:1", workload, dataset=data[0] if data else None, models=models)
    plan.validate()
    if set(workload.requires) & set(PRIVATE):
        with pytest.raises(PlanError, match="it needs"):
            StepSource(plan, workload, plan.steps[0], workload.isl)
        return
    workloads.check_runnable(workload, dataset=plan.dataset, models=3 if models else 1)
    source = StepSource(plan, workload, plan.steps[-1], CalibrationResult(None, 0, []))
    for index in (0, 1, 5000):
        body = json.loads(source.request(index if not source.due_ns else index % len(source.due_ns)).body)
        assert 1 <= body["max_tokens"] <= workload.osl
        assert body["messages"][-1]["role"] == "user"
        assert (body.get("ignore_eos"), "min_tokens" in body) == (
            (True, True) if workload.ignore_eos else (None, False)
        )
        assert body["temperature"] == workload.sampling.get("temperature", 0)


def test_fixed_lengths_wait_for_a_state_and_shared_caches_say_how_much() -> None:
    for name in workloads.names():
        workload = workloads.load(name)
        if (
            workload.evidence_level in ("standard", "publication")
            and workload.loop != "offline"
            and not set(workload.requires) & {"azure-trace", "mooncake-trace", "starts"}
        ):
            assert workload.warmup_rule == "state" or workload.id == "burst.step@1", name
        assert all(step.warmup_rule == workload.warmup_rule for step in workload.steps())
        assert workload.cache_share == 0.0 or workload.cache != "cold"
        if workload.loop == "both":
            assert {kind for kind, _, _ in workload.ladder} == {"closed"}
            assert workload.open_arrival == "poisson"
            assert workload.open_fractions == (0.5, 0.7, 0.8, 0.9, 0.95)


def test_demo_profile_is_what_the_demo_promises() -> None:
    demo = workloads.load("demo.chat@1")
    assert demo.evidence_level == "demo"
    assert demo.ladder == [("closed", 1.0, "none"), ("closed", 2.0, "none"), ("closed", 4.0, "none")]
    assert demo.slo is not None
    assert (demo.slo["ttft_ms"], demo.slo["tpot_ms"]) == (1000, 50)
    assert [step.load_value for step in demo.steps()] == [1, 2, 4]


def test_no_short_window_claims_more_than_it_is_worth() -> None:
    """The windows of ``standard`` are the catalogue's own, which may be shorter than an unknown profile's."""
    least = {"demo": 0, "smoke": 120, "standard": 60, "publication": 600}
    for name in workloads.names():
        workload = workloads.load(name)
        assert workload.window_s >= least[workload.evidence_level], name
        assert workload.tail_s <= workload.request_timeout_s, name
        assert workload.evidence_level != "publication" or workload.trials >= 5, name
        slo = workload.slo or {}
        assert workload.request_timeout_s >= max(60, 10 * (slo.get("e2e_ms") or 0) / 1000), name


def test_custom_is_fully_described_by_its_document() -> None:
    one = workloads.custom(concurrency=4, isl=100, osl=10, duration_s=30)
    assert one.id.startswith("custom.")
    assert workloads.from_document(json.loads(json.dumps(one.document))) == one
    assert one.id != workloads.custom(concurrency=5, isl=100, osl=10, duration_s=30).id
    assert workloads.custom(rate=20.0, requests=100).window_s == 5.0
    assert workloads.custom(concurrency=2, requests=100).requests == 100


def test_a_document_can_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(dict(workloads.load("smoke.chat@1").document)))
    assert workloads.load(path).hash == workloads.load("smoke.chat@1").hash


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"id": "Bad Id"}, "id"),
        ({"loop": "half-open"}, "loop"),
        ({"arrival": "poisson"}, "arrival"),
        ({"evidence_level": "solid"}, "evidence_level"),
        ({"ladder": []}, "ladder"),
        ({"ladder": [1.5]}, "ladder"),
        ({"ladder": ["2"]}, "ladder"),
        ({"isl": {"law": "uniform", "tokens": 5}}, "isl"),
        ({"osl": {"law": "const", "tokens": 0}}, "osl"),
        ({"text": "prose"}, "text"),
        ({"text": "instructions"}, "isl"),
        ({"text": "dialogue"}, "sessions"),
        ({"text": "schema"}, "response_format"),
        ({"isl": {"law": "natural"}}, "isl"),
        ({"isl": {"law": "empirical"}}, "empirical"),
        ({"osl": {"law": "natural", "cap": 9}}, "ignore_eos"),
        ({"stop": {"ignore_eos": "yes"}}, "stop.ignore_eos"),
        ({"cache": "warm"}, "cache"),
        ({"cache": "shared"}, "cache"),
        ({"cache": {"shared": 1.5}}, "cache.shared"),
        ({"cache": {"shared": 0.5}, "prefix": {"tokens": 90, "groups": 2, "zipf": 1}}, "prefix.tokens"),
        ({"prefix": {"tokens": 9}}, "prefix"),
        ({"loop": "offline"}, "requests"),
        ({"loop": "both"}, "arrival"),
        ({"loop": "open", "arrival": "at_once", "ladder": [0.5]}, "at_once"),
        ({"loop": "open", "arrival": "trace"}, "trace"),
        ({"loop": "open", "arrival": "steps:1x9", "warmup_rule": "state"}, "warmup_rule"),
        ({"loop": "open", "arrival": "gamma:0"}, "arrival"),
        ({"warmup_rule": "count"}, "warmup_rule"),
        ({"trials": 0}, "trials"),
        ({"open_fractions": [2]}, "open_fractions"),
        ({"open_fractions": []}, "open_fractions"),
        ({"cancel": {"share": 2, "expected_ms": 5}}, "cancel.share"),
        ({"models": {"count": 0, "zipf": 0}}, "models.count"),
        ({"sampling": {"temperature": 9}}, "sampling.temperature"),
        ({"sampling": {"seed": 9}}, "sampling"),
        ({"connection": "close"}, "connection"),
        ({"http_version": "3"}, "http_version"),
        ({"api": "embeddings"}, "api"),
        ({"requires": ["luck"]}, "requires"),
        ({"response_format": "xml"}, "response_format"),
        ({"requests": 5, "requests_per_user": 5}, "requests_per_user"),
        ({"slo": {"ttft_ms": -1, "quantile": 0.9}}, "slo.ttft_ms"),
        ({"slo": {"ttft_ms": 1, "quantile": 1}}, "slo.quantile"),
        ({"slo": {"ttft_ms": 1}}, "quantile"),
        (
            {"times_s": {"warmup": 1, "window": 0, "tail": 1, "request_timeout": 1, "idle_timeout": 1}},
            "window",
        ),
        ({"times_s": {"warmup": 1}}, "window"),
        ({"surprise": 1}, "surprise"),
        ({"slo": {"ttft": 1}}, "slo"),
        ({"requests": 0}, "requests"),
    ],
)
def test_a_wrong_document_is_refused_by_field(change: dict[str, Any], names: str) -> None:
    document = {**copy.deepcopy(dict(workloads.load("demo.chat@1").document)), **change}
    with pytest.raises(PlanError, match=names):
        workloads.from_document(document)


@pytest.mark.parametrize("missing", ["id", "ladder", "isl", "slo", "times_s", "stop"])
def test_a_missing_field_is_named(missing: str) -> None:
    document = {key: value for key, value in workloads.load("demo.chat@1").document.items() if key != missing}
    with pytest.raises(PlanError, match=missing):
        workloads.from_document(document)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x),
        max_leaves=10,
    )
)
def test_any_json_is_a_workload_or_a_plan_error(document: Any) -> None:
    with pytest.raises(PlanError):
        workloads.from_document(document)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(FROZEN)), st.data())
def test_a_profile_with_any_one_field_changed_is_a_workload_or_a_plan_error(
    name: str, data: st.DataObject
) -> None:
    document = copy.deepcopy(dict(_document(name)))
    field = data.draw(st.sampled_from(sorted(document)))
    inner = document[field]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(_ANY)
    else:
        document[field] = data.draw(_ANY)
    try:
        workload = workloads.from_document(document)
    except PlanError as error:
        assert str(error).startswith("workload ")  # noqa: PT017
    else:
        assert workload.isl >= 1
        assert workload.osl >= 1


@cache
def _document(name: str) -> Any:
    return workloads.load(name).document


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PlanError, match=r"demo\.chat@1"):
        workloads.load("no.such@1")


def test_plan_survives_json() -> None:
    plan = make_plan("http://127.0.0.1:1", workloads.load("demo.chat@1"), headers={"x-a": "b"})
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"replicas": ()}, "replicas"),
        ({"steps": ()}, "steps"),
        ({"shard": 1}, "shard"),
        ({"api": "embeddings"}, "api"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"request_timeout_s": -1}, "request_timeout_s"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_by_field(change: dict[str, Any], names: str) -> None:
    plan = make_plan("http://127.0.0.1:1", workloads.load("demo.chat@1"))
    with pytest.raises(PlanError, match=names):
        dataclasses.replace(plan, **change).validate()


def test_light_modules_import_no_heavy_library() -> None:
    code = (
        "import sys, loadgen.workloads, loadgen.plan, loadgen.run, loadgen.__main__\n"
        "loadgen.workloads.custom(concurrency=1)\n"
        "print([m for m in ('pyarrow', 'numpy', 'yaml', 'aiohttp', 'asyncio', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV, check=True)
    assert done.stdout.strip() == "[]"


def test_a_load_of_flags_says_how_it_is_sent() -> None:
    workload = workloads.custom(
        concurrency=1, api="completions", http_version="2", fresh_connections=True, text="natural"
    )
    assert (workload.api, workload.http_version, workload.fresh_connections) == ("completions", "2", True)
    assert workload.text == "natural"
    plain = workloads.custom(concurrency=1)
    assert not {"api", "http_version", "connection"} & set(plain.document)
    assert (plain.api, plain.http_version, plain.fresh_connections) == ("chat", "1.1", False)
    assert workloads.custom(rate=2.0, arrival="gamma:0.25").ladder == [("open", 2.0, "gamma:0.25")]


def test_totals_of_closed_steps() -> None:
    per_user = workloads.load("ix.1k1k-r80@1")
    assert [per_user.total(step) for step in per_user.steps()][:2] == [40, 80]
    assert workloads.load("batch.offline@1").total(workloads.load("batch.offline@1").steps()[0]) == 24_576
    assert workloads.load("demo.chat@1").total(workloads.load("demo.chat@1").steps()[0]) is None
