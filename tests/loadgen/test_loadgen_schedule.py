"""Arrival laws, seeds and shards: the division by test, the draws by golden hash (AT-7 tests the laws)."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import workloads
from loadgen.schedule import Digest, arrivals, check_arrival, child_seed, gamma_draw, normal_draw, replay
from loadgen.source import StepSource, hashes

from .conftest import make_plan


def test_constant_arrivals_do_not_drift() -> None:
    due = list(arrivals("constant", 3.0, 1000.0, seed=1))
    assert len(due) == 3000
    assert all(at == round((index + 0.5) * 1e9 / 3) for index, at in enumerate(due))


def test_seeds_are_split_by_purpose_and_stable() -> None:
    assert child_seed(1, "arrival", 0, 0) == 10702854275476262651  # sha256 of "1/arrival/0/0", first 8 bytes
    seeds = {
        child_seed(root, name, step) for root in (1, 2) for name in ("arrival", "content") for step in (0, 1)
    }
    assert len(seeds) == 8
    assert list(arrivals("poisson", 50, 5, 3)) == list(arrivals("poisson", 50, 5, 3))
    assert list(arrivals("poisson", 50, 5, 3)) != list(arrivals("poisson", 50, 5, 4))


def test_steps_of_rate_begin_after_the_warm_up() -> None:
    due = np.array(arrivals("steps:0.5x100,1.5x100,0.5x100", 20, 400, 5, lead_s=50)) / 1e9
    counts = np.histogram(due, [0, 50, 150, 250, 350, 400])[0]
    expected = np.array([500, 1000, 3000, 1000, 500])
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_all_at_once_is_due_after_the_warm_up() -> None:
    assert list(arrivals("at_once", 3, 10, 0, lead_s=2.0)) == [2_000_000_000] * 3


@pytest.mark.parametrize("shape", [0.1, 0.25, 1.0, 2.5, 40.0])
def test_gamma_draws_have_their_moments(shape: float) -> None:
    import random

    draw = gamma_draw(shape, random.Random(3).random)
    values = np.array([draw() for _ in range(20_000)])
    assert values.mean() == pytest.approx(shape, rel=5 / (shape * 20_000) ** 0.5)
    assert values.var() == pytest.approx(shape, rel=0.35 if shape < 0.2 else 0.15)


def test_normal_draws_are_normal() -> None:
    import random

    from scipy import stats

    draw = normal_draw(random.Random(5).random)
    assert stats.kstest([draw() for _ in range(20_000)], "norm").pvalue > 0.01


@pytest.mark.parametrize(
    "text", ["none", "poisson", "constant", "trace", "at_once", "gamma:0.25", "steps:0.5x120,1.5x120"]
)
def test_known_arrival_laws_are_accepted(text: str) -> None:
    check_arrival(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("uniform", "'uniform' is unknown"),
        ("gamma", "'gamma' is unknown"),
        ("gamma:-1", "shape K"),
        ("gamma:nan", "shape K"),
        ("gamma:x", "shape K"),
        ("steps:", "is unknown"),
        ("steps:1", "FACTORxSECONDS"),
        ("steps:1x10,2xinf", "'2xinf'"),
        ("steps:0x10", "'0x10'"),
        ("poisson:3", "is unknown"),
        (7, "not a text"),
    ],
)
def test_unknown_arrival_laws_are_refused_with_what_is_known(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_arrival(text)


OFFSETS = [0, 1_000_000_000, 1_500_000_000, 4_000_000_000, 9_000_000_000]


def test_a_trace_keeps_order_and_shape_at_another_rate() -> None:
    own_rate = 5 / 11.25  # the ring closes with a mean gap: 9 s x 5/4
    due, places = replay(OFFSETS, own_rate, 11.25, 0.0)
    assert list(due) == OFFSETS
    assert list(places) == [0, 1, 2, 3, 4]
    due, places = replay(OFFSETS, 2 * own_rate, 5.625, 0.0)
    assert list(due) == [at // 2 for at in OFFSETS]


def test_a_trace_is_a_ring_so_that_load_goes_on() -> None:
    due, places = replay(OFFSETS, 5 / 11.25, 30.0, 3.0)
    assert list(places) == [-1, *range(14)]
    assert due[1] == 3_000_000_000  # its first arrival is due at the end of the warm-up
    assert due[0] == 3_000_000_000 - (11_250_000_000 - 9_000_000_000)
    assert list(np.diff(due)[:5]) == [2_250_000_000, *np.diff(OFFSETS)]


def test_thinning_keeps_the_traces_own_time() -> None:
    offsets = [k * 10_000_000 for k in range(10_000)]
    due, places = replay(offsets, 30.0, 100.0, 0.0, thin=1)
    assert len(due) == pytest.approx(3000, abs=250)
    assert all(at == place * 10_000_000 for at, place in zip(due, places, strict=True))
    assert list(due) == list(replay(offsets, 30.0, 100.0, 0.0, thin=1)[0])
    assert list(due) != list(replay(offsets, 30.0, 100.0, 0.0, thin=2)[0])
    with pytest.raises(ValueError, match="thinning cannot raise"):
        replay(offsets, 200.0, 10.0, 0.0, thin=1)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 10**10), min_size=2, max_size=30).filter(lambda x: max(x) > min(x)),
    st.floats(0.5, 20),
    st.floats(0, 5),
)
def test_replayed_times_ascend_within_the_step(offsets: list[int], rate: float, lead_s: float) -> None:
    due, places = replay(sorted(offsets), rate, 10.0, lead_s)
    assert list(due) == sorted(due)
    assert all(0 <= at < 10_000_000_000 for at in due)
    assert all(b - a == 1 for a, b in pairwise(places))


def step_sources(seed: int, shard: int = 0, shards: int = 1, **load: object) -> list[StepSource]:
    workload = workloads.custom(isl=32, osl=8, duration_s=2.0, warmup_s=1.0, **load)
    plan = make_plan("http://127.0.0.1:1", workload, seed=seed, shard=shard, shards=shards)
    return [StepSource(plan, workload, step, 30) for step in plan.steps]


_PROMPTS = "019d0f87cb26b2b819559de71f772bdf1adea268918c8de880d80dc3e95f19c5"
GOLDEN = {
    "closed": ("b5ba5fae7050e211f67fde570ded13012c5a80eb903bf100a674cdd4136f8127", _PROMPTS),
    "open": ("42d9a2a4867457cd5a375b243dc7b745f0f1552cf671142fd4c5e0715351560f", _PROMPTS),
}


def test_hashes_are_golden_and_depend_on_the_seed() -> None:
    """The same on every host and Python; a change means that recorded runs can no longer be repeated."""
    found = {
        "closed": hashes(step_sources(7, concurrency=[1, 2])),
        "open": hashes(step_sources(7, rate=[105.0, 209.0])),
    }
    assert found == GOLDEN
    other = hashes(step_sources(8, rate=[105.0, 209.0]))
    assert other[0] != found["open"][0]
    assert other[1] != found["open"][1]


@pytest.mark.parametrize("load", [{"rate": 50.0}, {"concurrency": 5}, {"concurrency": 5, "requests": 17}])
def test_shards_divide_one_schedule(load: dict[str, object]) -> None:
    whole = step_sources(7, **load)[0]
    parts = [step_sources(7, shard, 3, **load)[0] for shard in range(3)]
    assert {hashes([part]) for part in parts} == {hashes([whole])}
    assert sorted(at for part in parts for at in part.due_ns) == list(whole.due_ns)
    for index in range(20):
        for shard, part in enumerate(parts):
            mine, theirs = part.exchange(index, 0).request, whole.exchange(index * 3 + shard, 0).request
            assert (mine.seq, mine.body, mine.prompt) == (theirs.seq, theirs.body, theirs.prompt)
    if whole.total is not None:
        assert sum(part.total or 0 for part in parts) == whole.total == 17


def test_built_and_unbuilt_requests_are_the_same() -> None:
    built, unbuilt = step_sources(7, concurrency=2)[0], step_sources(7, concurrency=2)[0]
    built.build()
    for index in (0, 1, 1999, 2000, 5000):
        assert built.exchange(index, 0).request == unbuilt.exchange(index, 0).request


def test_replicas_take_turns() -> None:
    workload = workloads.custom(concurrency=4)
    plan = make_plan(["http://a:1", "http://b:1"], workload)
    for shard in (0, 1):
        source = StepSource(dataclasses.replace(plan, shard=shard, shards=2), workload, plan.steps[0], 30)
        found = [source.exchange(index, 0).replica.replica_id for index in range(4)]
        assert found == [["a:1", "b:1"], ["b:1", "a:1"]][shard] * 2


def test_a_step_that_waits_for_a_state_has_load_for_the_longest_warm_up() -> None:
    source = step_sources(7, rate=50.0)[0]
    assert max(source.due_ns) < 63e9
    step = dataclasses.replace(source.step, warmup_rule="state", warmup_max_s=100.0)
    plan = source._plan
    longer = StepSource(plan, source._workload, step, 30)
    assert max(longer.due_ns) > 150e9


def test_digest_tells_fields_apart() -> None:
    one, two = Digest(), Digest()
    one.add("ab")
    one.add("c")
    two.add("a")
    two.add("bc")
    assert one.hex() != two.hex()
