"""The plan: its JSON form, plans of before, and what it refuses by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from loadgen import workloads
from loadgen.plan import Plan, PlanError, Replica, Step

WORKLOAD = workloads.custom(concurrency=[1, 5], duration_s=1)

OLD_FIELDS = {
    *("run_id", "model", "replicas", "steps", "workload", "workload_id", "workload_hash", "seed"),
    *("request_timeout_s", "idle_timeout_s", "deadline_s", "api", "stream", "api_key_env", "headers"),
    *("shard", "shards"),
}


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run_id": "r",
        "model": "m",
        "replicas": (Replica("h:1", "http://h:1"),),
        "steps": WORKLOAD.steps(),
        "workload": WORKLOAD.document,
        "workload_id": WORKLOAD.id,
        "workload_hash": WORKLOAD.hash,
        "seed": 1,
        "request_timeout_s": 60.0,
        "idle_timeout_s": 30.0,
        "deadline_s": 60.0,
    }
    return Plan(**{**fields, **changes})


def test_a_plan_survives_json_with_every_field_set() -> None:
    step = Step(0, "open", 3.5, 1, 2, 3, "gamma:0.25", kind="confirm", warmup_rule="state", warmup_max_s=30)
    full = plan(
        steps=(step,),
        models=("a", "b"),
        dataset="/x.jsonl",
        search={"slo": {"ttft_ms": 100.0, "quantile": 0.95}, "fractions": [0.5]},
        proxy="http://p:3128",
        http_version="2",
        fresh_connections=True,
        canary=True,
        null_server=False,
        start_at_unix=1.75e9,
    )
    full.validate()
    assert Plan.from_json(full.to_json()) == full


def test_a_plan_of_before_still_reads() -> None:
    document = json.loads(plan().to_json())
    old_step = ("step_index", "load_kind", "load_value", "warmup_s", "window_s", "tail_s", "arrival")
    later = {field.name for field in dataclasses.fields(Plan)} - OLD_FIELDS
    old = {name: value for name, value in document.items() if name not in later}
    assert len(old) == len(OLD_FIELDS) == 17
    old["steps"] = [{name: step[name] for name in old_step} for step in document["steps"]]
    read = Plan.from_json(json.dumps(old))
    assert read == plan()
    assert (read.workers, read.search, read.null_server, read.steps[0].warmup_rule) == (1, None, True, "time")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workers": 0}, "workers"),
        ({"workers": 2.5}, "workers"),
        ({"workers": 2, "shards": 2}, "workers, shards"),
        ({"shard": 2, "shards": 2}, "shard"),
        ({"http_version": "3"}, "http_version"),
        ({"proxy": "p:3128"}, "proxy"),
        ({"proxy": "http://me:secret@p:3128"}, "proxy_env"),
        ({"proxy": "http://p:1", "proxy_env": "P"}, "proxy, proxy_env"),
        ({"models": ("a", "")}, "models"),
        ({"start_at_unix": -1.0}, "start_at_unix"),
        ({"deadline_s": float("inf")}, "deadline_s"),
        ({"search": {"slo": {"ttft": 1}}}, "search.slo"),
        ({"search": {}}, "search.slo"),
        ({"search": {"slo": {"ttft_ms": 0}}}, "search.slo.ttft_ms"),
        ({"search": {"slo": {"quantile": 1.5}}}, "search.slo.quantile"),
        ({"search": {"slo": {}, "fractions": []}}, "search.fractions"),
        ({"search": {"slo": {}, "fractions": [2]}}, "search.fractions"),
        ({"search": {"slo": {}, "max_concurrency": 0}}, "search.max_concurrency"),
        ({"search": {"slo": {}, "speed": 1}}, "speed"),
        ({"search": {"slo": {}}, "workers": 2}, "search"),
    ],
)
def test_a_wrong_plan_is_refused_by_its_field(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(PlanError, match=named):
        plan(**changes).validate()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"load_kind": "half"}, "load_kind"),
        ({"load_value": 1.5}, "load_value"),
        ({"load_value": float("nan")}, "load_value"),
        ({"arrival": "poisson"}, "arrival"),
        ({"load_kind": "open"}, "arrival"),
        ({"load_kind": "open", "arrival": "gamma:x"}, "arrival"),
        ({"kind": "guess"}, "kind"),
        ({"warmup_rule": "count"}, "warmup_rule"),
        ({"warmup_max_s": 0}, "warmup_max_s"),
        ({"window_s": 0}, "window_s"),
        ({"load_kind": "open", "arrival": "at_once", "warmup_rule": "state"}, "warmup_rule"),
    ],
)
def test_a_wrong_step_is_refused_by_its_field(changes: dict[str, Any], named: str) -> None:
    step = dataclasses.replace(Step(3, "closed", 2, 1, 2, 3), **changes)
    with pytest.raises(PlanError, match=rf"steps\[3\].*{named}"):
        plan(steps=(step,)).validate()


def test_shards_take_whole_users_and_equal_rates() -> None:
    closed, opened = Step(0, "closed", 5, 1, 2, 3), Step(0, "open", 9.0, 1, 2, 3, "poisson")
    shares = [plan(shard=i, shards=3).share(closed) for i in range(3)]
    assert shares == [2, 2, 1]
    assert [plan(shard=i, shards=3).share(opened) for i in range(3)] == [3.0] * 3
    assert plan(shard=7, shards=8).share(closed) == 0, "a shard without users idles"


def test_warmup_by_state_is_planned_at_its_longest() -> None:
    step = Step(0, "closed", 1, warmup_s=5, window_s=10, tail_s=20)
    assert (step.warmup_limit_s, step.planned_s) == (5, 35)
    assert dataclasses.replace(step, warmup_rule="state").warmup_limit_s == 600
    assert dataclasses.replace(step, warmup_rule="state", warmup_max_s=1).warmup_limit_s == 5
