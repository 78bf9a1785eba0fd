"""Workload profiles: immutable, checked, importable without heavy libraries; the plan's validation."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import workloads
from loadgen.plan import Plan, PlanError

from .conftest import ENV, make_plan

# A profile never changes: a new version gets a new name. Only additions belong here.
FROZEN = {
    "decode.2k@1": "902615bb6201975b",
    "demo.chat@1": "4aadb894264e52cc",
    "fixed.1k1k@1": "b6bf6f98c8b8dad5",
    "fixed.8k1k@1": "cf4b2f02af780477",
    "prefill.8k@1": "d64444829b41e2a0",
    "smoke.chat@1": "64892edc28cb14f6",
}


def test_packaged_profiles_are_as_they_were_released() -> None:
    assert {name: workloads.load(name).hash[:16] for name in workloads.names()} == FROZEN


def test_demo_profile_is_what_the_demo_promises() -> None:
    demo = workloads.load("demo.chat@1")
    assert demo.evidence_level == "demo"
    assert demo.ladder == [("closed", 1.0, "none"), ("closed", 2.0, "none"), ("closed", 4.0, "none")]
    assert demo.slo is not None
    assert (demo.slo["ttft_ms"], demo.slo["tpot_ms"]) == (1000, 50)
    assert [step.load_value for step in demo.steps()] == [1, 2, 4]


def test_no_short_window_claims_more_than_it_is_worth() -> None:
    least = {"demo": 0, "smoke": 120, "standard": 300, "publication": 600}
    for name in workloads.names():
        workload = workloads.load(name)
        assert workload.window_s >= least[workload.evidence_level], name
        assert workload.tail_s <= workload.request_timeout_s, name


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
        ({"text": "natural"}, "text"),
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
        "print([m for m in ('pyarrow', 'numpy', 'yaml', 'aiohttp', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV, check=True)
    assert done.stdout.strip() == "[]"
