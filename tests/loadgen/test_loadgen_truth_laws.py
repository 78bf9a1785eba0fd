"""The ground-truth server's laws, draws, timing, prefix cache and receive clock, without a socket."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.truth import stamps
from loadgen.truth.answers import Answers
from loadgen.truth.asking import Asked
from loadgen.truth.draws import Draw, Draws
from loadgen.truth.jobs import Usage
from loadgen.truth.laws import Law, child
from loadgen.truth.options import Behaviour, PrefixCache, read
from loadgen.truth.prefix import PrefixTrie
from loadgen.truth.wire import ASCII, UNICODE

ASKED = Asked(
    chat=True, model="m", stream=True, words=["a"], input_tokens=5, limit=64, least=0, ignore_eos=True, usage="final"
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "mean", "cv"),
    [
        ("const:50", 50.0, 0.0),
        ("7.5", 7.5, 0.0),
        ("exp:20", 20.0, 1.0),
        ("uniform:10:30", 20.0, 20 / math.sqrt(12) / 20),
        ("erlang:4:20", 20.0, 0.5),
        ("lognorm:50:0.5", 50 * math.exp(0.125), math.sqrt(math.exp(0.25) - 1)),
    ],
)
def test_a_law_has_its_mean_and_spread(text: str, mean: float, cv: float) -> None:
    law = Law.parse(text)
    assert law.mean == pytest.approx(mean)
    source = child(3, "ttft")
    values = [law.draw(source) for _ in range(40_000)]
    assert min(values) >= 0
    assert statistics.fmean(values) == pytest.approx(mean, rel=0.02)
    assert statistics.pstdev(values) / mean == pytest.approx(cv, rel=0.03, abs=1e-9)
    assert Law.parse(str(law)) == law


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a law is a number or one of"),
        ("gauss:1:2", "a law is a number or one of"),
        ("exp:fast", "a law is a number or one of"),
        ("exp", "exp has 1 parts, as in exp:MEAN"),
        ("lognorm:50", "lognorm has 2 parts, as in lognorm:MEDIAN:SIGMA"),
        ("uniform:3:1", "the low end is above the high end"),
        ("erlang:1.5:2", "whole number of at least 1"),
        ("exp:-1", "finite and not negative"),
        ("inf", "finite and not negative"),
        ("nan", "finite and not negative"),
    ],
)
def test_a_wrong_law_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Law.parse(text)


@given(st.text(max_size=20))
@settings(deadline=None)
def test_any_text_is_a_law_or_refused(text: str) -> None:
    try:
        law = Law.parse(text)
    except ValueError:
        return
    assert law.draw(random.Random(1)) >= 0


def draws(count: int, *flags: str) -> list[Draw]:
    behaviour, _ = read(list(flags))
    source = Draws(behaviour)
    return [source.next() for _ in range(count)]


def test_each_purpose_draws_for_itself() -> None:
    """Another TTFT law, length law or gap law changes nothing else."""
    common = ("--faults", "500:0.2,reset:0.1", "--gap", "exp:10", "--tokens", "lognorm:64:0.5", "--seed", "5")
    plain = draws(500, *common, "--ttft", "50")
    other = draws(500, *common, "--ttft", "erlang:3:50", "--service", "exp:100")
    assert [one[1] for one in plain] == [one[1] for one in other]
    assert [one[3:] for one in plain] == [one[3:] for one in other]
    assert len({one.ttft_ms for one in other}) == 500
    assert {one.fault for one in plain} == {None, "500", "reset"}
    faults = statistics.fmean(one.fault == "500" for one in draws(20_000, "--faults", "500:0.2"))
    assert faults == pytest.approx(0.2, abs=0.01)
    assert draws(50, "--seed", "6", "--gap", "exp:10") != draws(50, "--seed", "5", "--gap", "exp:10")


def test_draws_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from loadgen.truth.draws import Draws\nfrom loadgen.truth.options import read\n"
        "d = Draws(read(['--ttft', 'lognorm:50:1', '--faults', 'hang:0.5', '--seed', '9'])[0])\n"
        "print([d.next() for _ in range(5)])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1
    assert "Draw(" in told.pop()


def answers(*flags: str) -> Answers:
    return Answers(read(list(flags))[0])


def due_ms(made: Answers, ttft: float, gap: float, fault: str | None = None) -> list[float]:
    """When each write with tokens is due."""
    answer = made.answer(ASKED, 64, fault, 0, False)
    offsets = answer.timing.offsets(ttft, gap)
    assert len(offsets) == len(answer.data) == len(answer.tokens) == len(answer.generated) - 1
    assert all(later >= before for before, later in pairwise(offsets))
    return [at / 1e6 for at, tokens in zip(offsets, answer.tokens, strict=True) if tokens]


def test_writes_are_due_on_an_absolute_schedule() -> None:
    assert due_ms(answers(), 50, 10) == [50.0 + 10 * k for k in range(64)]
    assert due_ms(answers("--tokens-per-chunk", "4"), 50, 10) == [50.0 + 40 * k for k in range(16)]
    assert due_ms(answers("--reasoning", "reasoning:10:500"), 50, 10)[9:12] == [140.0, 500.0, 510.0]
    assert due_ms(answers("--reasoning", "reasoning:10:90"), 50, 10)[9:12] == [140.0, 150.0, 160.0]
    buffered = due_ms(answers("--events-per-write", "10"), 50, 10)
    assert buffered == [50.0, 150.0, 250.0, 350.0, 450.0, 550.0, 650.0, 680.0]
    assert due_ms(answers(), 50, 10, "reset") == [50.0 + 10 * k for k in range(32)]


def test_the_service_law_sets_when_the_last_token_is_due() -> None:
    draw = Draw(50.0, 10.0, 680.0, 64, None)
    assert draw.paced(63) == (50.0, 10.0)
    assert draw.paced(0) == (680.0, 10.0)
    assert Draw(50.0, 10.0, 20.0, 64, None).paced(63) == (20.0, 0.0)
    assert Draw(50.0, 10.0, None, 64, None).paced(63) == (50.0, 10.0)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--usage", "every"),
        ("--framing", "bytewise"),
        ("--framing", "split"),
        ("--framing", "multiline", "--usage", "every"),
        ("--chunk-layout", "plain", "--usage", "late:5"),
        ("--chunk-layout", "role-with-token", "--events-per-write", "7"),
        ("--reasoning", "both:5", "--empty-token", "2", "--tokens-per-chunk", "3"),
    ],
)
@pytest.mark.parametrize("fault", [None, "reset", "stall", "error_event", "malformed", "short"])
def test_every_write_has_its_moment_and_all_tokens_are_counted(
    flags: tuple[str, ...], fault: str | None
) -> None:
    made = answers(*flags)
    due_ms(made, 50, 10, fault)
    answer = made.answer(ASKED, 64, fault, 0, False)
    assert answer.generated[-1] == sum(answer.tokens) == (64 if fault in (None, "malformed") else 32)
    assert answer.ending == (fault if fault in ("reset", "stall") else "done")
    whole = b"".join(answer.data)
    assert whole.endswith(b"0\r\n\r\n") == (answer.ending == "done")
    assert answer.first_event < len(answer.data)


def test_words_are_five_characters_each() -> None:
    assert {len(word) for word in (*ASCII, *UNICODE)} == {5}
    assert max(len(word.encode()) for word in UNICODE) == 17


def test_the_length_of_an_answer() -> None:
    def asked(**changes: Any) -> Asked:
        fields = {name: getattr(ASKED, name) for name in Asked.__slots__}
        return Asked(**{**fields, **changes})

    assert asked(limit=10).length(64) == 10
    assert asked(limit=100).length(64) == 100
    assert asked(limit=100, ignore_eos=False).length(64) == 64
    assert asked(limit=100, ignore_eos=False, least=80).length(64) == 80
    assert asked(limit=None).length(64) == 64
    assert asked(limit=None, least=80).length(64) == 80


# ---------------------------------------------------------------------- prefix cache


def test_a_prompt_seen_before_is_cached_but_for_its_last_word() -> None:
    trie = PrefixTrie(PrefixCache(words=1000, block=4))
    words = [f"w{index}" for index in range(12)]
    assert trie.look_up(words) == 0
    trie.add(words)
    assert trie.look_up(words) == 8  # the third block holds the last word
    assert trie.look_up([*words, "more"]) == 12
    assert trie.look_up([*words[:6], "x", *words[7:]]) == 4
    assert trie.look_up(["x", *words]) == 0
    assert (trie.queries, trie.hits) == (12 + 12 + 13 + 12 + 13, 24)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), min_size=1, max_size=12), st.integers(1, 4))
@settings(deadline=None)
def test_a_hit_is_the_longest_known_prefix_in_blocks(prompts: list[list[str]], block: int) -> None:
    trie = PrefixTrie(PrefixCache(words=10_000, block=block))
    known: set[tuple[str, ...]] = set()
    for words in prompts:
        usable = len(words) - 1
        fits = [n for n in range(0, usable + 1, block) if tuple(words[:n]) in known or n == 0]
        assert trie.look_up(words) == (max(fits) if usable >= 0 else 0)
        trie.add(words)
        known |= {tuple(words[:n]) for n in range(block, len(words) + 1, block)}


def test_the_least_recently_used_goes_first() -> None:
    trie = PrefixTrie(PrefixCache(words=4, block=1))
    trie.add(["a", "b"])
    trie.add(["c", "d"])
    assert trie.look_up(["a", "b", "?"]) == 2
    trie.add(["e"])  # no room: d is the leaf used longest ago
    assert trie.look_up(["a", "b", "?"]) == 2
    assert trie.look_up(["c", "d", "?"]) == 1
    assert trie.look_up(["e", "?"]) == 1


# ---------------------------------------------------------------------- clocks


class Clocks:
    """Both clocks, moved by hand; the wall clock can be set."""

    def __init__(self) -> None:
        self.now = 10**12
        self.wall_offset = 1_700_000_000 * 10**9

    def perf_counter_ns(self) -> int:
        self.now += 100
        return self.now

    def time_ns(self) -> int:
        return self.now + self.wall_offset


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(stamps, "time", made)
    return made


def test_a_kernel_stamp_is_moved_to_the_monotonic_clock(clocks: Clocks) -> None:
    clock = stamps.ReceiveClock()
    clocks.now += 50_000_000
    arrived = clocks.now
    clocks.now += 3_000_000
    user = clocks.now
    assert clock.monotonic(arrived + clocks.wall_offset, user) == pytest.approx(arrived, abs=200)
    assert (clock.jumps, clock.fallbacks) == (0, 0)
    assert clock.monotonic(None, user) is None
    assert clock.fallbacks == 1


@pytest.mark.parametrize("step_ns", [5 * 10**9, -5 * 10**9, 300_000, -300_000])
def test_a_set_wall_clock_is_found_and_stamps_from_before_are_not_used(clocks: Clocks, step_ns: int) -> None:
    clock = stamps.ReceiveClock()
    kernel = clocks.time_ns()
    clocks.now += 1_000_000
    clocks.wall_offset += step_ns
    assert clock.monotonic(kernel, clocks.now) is None
    assert (clock.jumps, clock.fallbacks) == (1, 1)
    clocks.now += 1_000_000
    arrived = clocks.now
    clocks.now += 1_000_000
    assert clock.monotonic(arrived + clocks.wall_offset, clocks.now) == pytest.approx(arrived, abs=200)
    assert (clock.jumps, clock.fallbacks) == (1, 1)


def test_a_slewed_clock_is_followed(clocks: Clocks) -> None:
    """500 ppm is 50 us between two samples."""
    clock = stamps.ReceiveClock()
    for _ in range(50):
        clocks.now += 100_000_000
        clocks.wall_offset += 50_000
        clock.sample()
    arrived = clocks.now
    assert clock.monotonic(arrived + clocks.wall_offset, clocks.now + 500) == pytest.approx(arrived, abs=200)
    assert clock.jumps == 0


def test_the_largest_share_of_a_core_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from loadgen.truth import jobs

    told = {"wall": 0, "cpu": 0}
    fake = SimpleNamespace(perf_counter_ns=lambda: told["wall"], process_time_ns=lambda: told["cpu"])
    monkeypatch.setattr(jobs, "time", fake)
    usage = Usage()
    for wall, cpu in ((500, 490), (1000, 500), (2000, 1400), (3000, 1500), (3300, 1797)):
        told.update(wall=wall * 10**6, cpu=cpu * 10**6)
        usage.tick(told["wall"], last=wall == 3300)
    assert usage.core_share_max == pytest.approx(0.99)
    assert usage.figures()["cpu_s"] == pytest.approx(1.797)


def test_defaults_need_no_flag() -> None:
    behaviour, place = read([])
    assert behaviour == Behaviour()
    assert place == ("127.0.0.1", 0, None, False)
