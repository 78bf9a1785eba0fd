"""Pages read beside a load, as they are written down: targets in the plan, and a form on disk that loses no byte."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping

import pytest

from loadgen import workloads
from loadgen.plan import Plan, PlanError, ScrapeTarget
from loadgen.scrape import texts
from loadgen.scrape.pages import Differ

from .conftest import make_plan


def test_a_plan_keeps_its_targets_through_json() -> None:
    workload = workloads.custom(concurrency=1)
    targets = (ScrapeTarget("engine", "a", "http://h:1/metrics"), ScrapeTarget("neuron", "n", "http://h:2"))
    plan = make_plan("http://h:1", workload, scrape=targets)
    assert Plan.from_json(plan.to_json()) == plan
    old = json.loads(plan.to_json())
    del old["scrape"]
    assert Plan.from_json(json.dumps(old)).scrape == ()


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (ScrapeTarget("gpu", "a", "http://h/metrics"), r"scrape\[0\].kind"),
        (ScrapeTarget("engine", "", "http://h/metrics"), r"scrape\[0\].replica_id"),
        (ScrapeTarget("engine", "a", "h:1/metrics"), r"scrape\[0\].url"),
        (ScrapeTarget("engine", "a", "http://h:x/"), r"scrape\[0\].url"),
        (ScrapeTarget("engine", "a", "http://me:pw@h/"), r"scrape\[0\].url: a user name"),
    ],
)
def test_a_wrong_target_is_refused_by_its_field(target: ScrapeTarget, named: str) -> None:
    with pytest.raises(PlanError, match=named):
        make_plan("http://h:1", workloads.custom(concurrency=1), scrape=(target,)).validate()


def random_pages(seed: int) -> Iterator[str]:
    """A page whose values move, and now and then a line that comes, goes, is renamed or is no sample at all."""
    draw = random.Random(seed)
    names = [f'm{k}{{le="{k}", text="a b"}}' for k in range(12)]
    values = [0.0] * 12
    for _ in range(200):
        values = [value + draw.choice((0, 0, 1, 2.5)) for value in values]
        kind = draw.randrange(40)
        if kind == 0:
            names.insert(draw.randrange(len(names)), f"new_{draw.random()}")
            values.append(1.0)
        elif kind == 1 and len(names) > 3:
            del names[draw.randrange(len(names))], values[-1]
        elif kind == 2:
            names[0] = f"renamed_{draw.random()}"
        rows = zip(names, values, strict=True)
        text = "# TYPE m gauge\n" + "\n".join(f"{name} {value!r}" for name, value in rows)
        yield text + draw.choice(("\n", "\n", "\n", "", "\nodd\n"))


@pytest.mark.parametrize("seed", range(8))
def test_every_page_comes_back_byte_for_byte(seed: int) -> None:
    pages, differ = list(random_pages(seed)), Differ(whole_every=10)
    kept = [json.loads(json.dumps(differ.next(page))) for page in pages]
    assert [text for _, text in texts(kept)] == pages
    whole = [one["text"] is not None for one in kept]
    assert whole[0]
    assert 20 <= sum(whole) < 150, "most are differences, and no ten in a row"
    assert all(any(whole[k : k + 10]) for k in range(len(whole) - 10))


def test_a_reading_that_failed_changes_nothing_between_two_pages() -> None:
    differ = Differ()
    kept = [differ.next("a 1\n"), {"text": None, "changed": None, "error": "gone"}, differ.next("a 2\n")]
    assert [text for _, text in texts(kept)] == ["a 1\n", "a 2\n"]


@pytest.mark.parametrize("changed", [{"7": "1"}, {"-1": "1"}])
def test_a_difference_that_fits_no_page_is_refused(changed: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match="line"):
        list(texts([{"text": "a 1\n"}, {"text": None, "changed": changed}]))
    with pytest.raises(ValueError, match="to none"):
        list(texts([{"text": None, "changed": {"0": "1"}}]))
