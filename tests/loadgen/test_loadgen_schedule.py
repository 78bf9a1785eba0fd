"""Arrival laws, seeds and prompts: the distributions by test, the draws by golden hash."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from loadgen import workloads
from loadgen.prompts import NONCE_WORDS, BodyTemplate, PromptSource, body_fields, words
from loadgen.schedule import Digest, arrivals, child_seed
from loadgen.source import StepSource, hashes

from .conftest import make_plan


def test_poisson_arrivals_are_poisson() -> None:
    rate, duration = 100.0, 100.0
    due = np.array(arrivals("poisson", rate, duration, seed=11)) / 1e9
    gaps = np.diff(due)
    assert stats.kstest(gaps, "expon", args=(0, 1 / rate)).pvalue > 0.01
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03)
    counts = np.histogram(due, bins=1000, range=(0, duration))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.15)
    assert abs(len(due) - rate * duration) < 4 * (rate * duration) ** 0.5
    assert len(due) != rate * duration  # never rescaled to the wished count
    assert np.mean(due % 1 < 1e-3) < 0.01  # no mass on whole seconds


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


@pytest.mark.parametrize("n_words", [1, 10, 16, 17, 300, 9000])
def test_prompts_have_the_exact_number_of_listed_words(n_words: int) -> None:
    known = set(words())
    text = PromptSource(5, n_words).text(3).decode()
    assert len(text.split(" ")) == n_words
    assert set(text.split(" ")) <= known


def test_prompts_start_with_a_nonce_of_their_own() -> None:
    assert len(words()) == len(set(words())) >= 590
    source = PromptSource(5, 40)
    prompts = [source.text(index) for index in range(2000)]
    assert (
        len({b" ".join(prompt.split()[:4]) for prompt in prompts}) == 2000
    )  # they part within the first few words
    assert prompts[:10] == [PromptSource(5, 40).text(index) for index in range(10)]
    assert PromptSource(6, 40).text(0) != prompts[0]
    assert len(prompts[0].split()) > NONCE_WORDS


@pytest.mark.parametrize(
    ("api", "stream", "ignore_eos"), [("chat", True, True), ("completions", False, False)]
)
def test_body_holds_what_was_asked(api: str, stream: bool, ignore_eos: bool) -> None:
    fields = body_fields(api, 'mo"del', max_tokens=9, ignore_eos=ignore_eos, stream=stream)
    body = json.loads(BodyTemplate.of(fields).fill(b"one two"))
    assert (body["messages"][0]["content"] if api == "chat" else body["prompt"]) == "one two"
    assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == (
        'mo"del',
        9,
        0,
        stream,
    )
    assert body.get("ignore_eos") == (True if ignore_eos else None)
    assert body.get("min_tokens") == (9 if ignore_eos else None)
    assert body.get("stream_options") == ({"include_usage": True} if stream else None)


def step_sources(seed: int, **load: object) -> list[StepSource]:
    workload = workloads.custom(isl=32, osl=8, duration_s=2.0, warmup_s=1.0, **load)
    plan = make_plan("http://127.0.0.1:1", workload, seed=seed)
    return [StepSource(plan, workload, step, 30) for step in plan.steps]


_PROMPTS = "08921cd9b835a7ea337b322937f1c988110504de5269b41045fae28d8eb0bf10"
GOLDEN = {
    "closed": ("c351bb00ee567a9841553d99579c268c0929190799ad6d206e69a554c487306a", _PROMPTS),
    "open": ("9271f2f24d625655f49b49616f44ecd4da3f492ecf6a00812b450ee6bcfafb5b", _PROMPTS),
}


def test_hashes_are_golden_and_depend_on_the_seed() -> None:
    """The same on every host and Python; a change means that recorded runs can no longer be repeated."""
    found = {
        "closed": hashes(step_sources(7, concurrency=[1, 2])),
        "open": hashes(step_sources(7, rate=[5.0, 9.0])),
    }
    assert found == GOLDEN
    other = hashes(step_sources(8, rate=[5.0, 9.0]))
    assert other[0] != found["open"][0]
    assert other[1] != found["open"][1]


def test_built_and_unbuilt_requests_are_the_same() -> None:
    built, unbuilt = step_sources(7, concurrency=2)[0], step_sources(7, concurrency=2)[0]
    built.build()
    for seq in (0, 1, 1999, 2000, 5000):
        assert built.exchange(seq, 0).request == unbuilt.exchange(seq, 0).request


def test_digest_tells_fields_apart() -> None:
    one, two = Digest(), Digest()
    one.add("ab")
    one.add("c")
    two.add("a")
    two.add("bc")
    assert one.hex() != two.hex()
