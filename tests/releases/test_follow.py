"""What follows from a release, as a pure decision: once, in order, within caps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.errors import LaunchError, UsageError
from accelbench_assets.releases.cursor import Cursor, decode, encode
from accelbench_assets.releases.follow import Caps, Decision, Found, Spent, follow
from accelbench_assets.releases.subjects import (
    NEURON,
    VLLM,
    ModelRevision,
    Variant,
    subject,
    tracked_cells,
    tracked_models,
)
from partitions.cell import BenchmarkCell, Deployment

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
COMMIT = "1234567" + "8" * 33
ONE = Decimal("1.5")
MANY = Caps(1000, 10_000, Decimal(10**6))


def cell(instance: str = "g6e.xlarge", **fields: Any) -> BenchmarkCell:
    base = BenchmarkCell(
        "llama-3.1-8b-instruct",
        "0e9e39f",
        instance,
        "vllm",
        "0.33.0",
        Deployment(dtype="bf16"),
        "fixed.1k1k@1",
    )
    return replace(base, **fields)


def workloads(count: int) -> list[BenchmarkCell]:
    return [cell(workload=f"w{n:05d}@1") for n in range(count)]


def release(version: str) -> Found:
    return Found("vllm", version, f"sha256:{version}", f"vllm/vllm-openai:v{version}")


def decide(
    cells: Sequence[BenchmarkCell],
    cursor: Cursor | None,
    *found: Found,
    registered: Callable[[BenchmarkCell], bool] = lambda _: False,
    estimate: Callable[[BenchmarkCell], Decimal] = lambda _: ONE,
    caps: Caps = MANY,
    now: datetime = NOW,
    **more: Any,
) -> Decision:
    return follow(cells, found, cursor, registered=registered, estimate=estimate, caps=caps, now=now, **more)


def known(version: str = "0.33.0", **more: Any) -> Cursor:
    return decide([], None, release(version), **more).cursor


def again(cursor: Cursor) -> Cursor:
    """The cursor after a restart."""
    found, warning = decode(encode(cursor))
    assert found is not None
    assert warning is None
    return found


def keys(decision: Decision) -> list[str]:
    return [request.cell.key_text for request in decision.requests]


def test_a_first_look_takes_note_and_starts_nothing() -> None:
    decision = decide(workloads(3), None, release("0.34.0"))
    assert decision.requests == decision.new_cells == ()
    assert decision.cursor.subjects["vllm"].known == "0.34.0"
    assert "first look" in decision.sentences()[0]
    assert decide(workloads(3), again(decision.cursor), release("0.34.0")).requests == ()


def test_a_first_look_follows_when_told_to() -> None:
    assert len(decide(workloads(3), None, release("0.34.0"), baseline="run").requests) == 3


def test_a_new_version_gives_the_same_cells_with_that_version_once() -> None:
    cells = [cell(), cell("p5.48xlarge", deployment=Deployment(dtype="bf16", tp=8)), cell()]
    first = decide(cells, known(), release("0.34.0"))
    assert keys(first) == [replace(one, engine_version="0.34.0").key_text for one in cells[:2]]
    assert [one.key_text for one in first.new_cells] == keys(first)
    assert first.requests[0].run_key == f"{first.requests[0].cell.cell_id}:sha256:0.34.0"
    assert first.spent == Spent(2, 2 * ONE)
    second = decide(cells, again(first.cursor), release("0.34.0"))
    assert second.planned == ()
    assert second.sentences() == []


def test_a_registered_cell_is_not_added_again_and_its_run_is_still_asked_for() -> None:
    target = replace(cell(), engine_version="0.34.0")
    decision = decide([cell()], known(), release("0.34.0"), registered=lambda one: one == target)
    assert decision.new_cells == ()
    assert keys(decision) == [target.key_text]


def test_an_older_version_and_one_known_change_nothing() -> None:
    cursor = known("0.34.0")
    for version in ("0.34.0", "0.33.1", "0.9.9"):
        assert decide(workloads(2), cursor, release(version)).planned == ()


@pytest.mark.parametrize("per_tick", [1, 3, 4, 100])
def test_what_does_not_fit_a_look_comes_at_the_next_in_order_and_nothing_twice(per_tick: int) -> None:
    cells, caps = workloads(10), replace(MANY, runs_per_tick=per_tick)
    cursor, asked, looks = known(), list[str](), 0
    while True:
        decision = decide(cells, cursor, release("0.34.0"), caps=caps)
        if not decision.requests:
            break
        looks += 1
        assert len(decision.requests) <= per_tick
        asked += keys(decision)
        cursor = again(decision.cursor)
    assert asked == [replace(one, engine_version="0.34.0").key_text for one in cells]
    assert looks == -(-10 // per_tick)
    assert cursor.subjects["vllm"].pending is None


def test_the_month_s_caps_hold_and_the_next_month_goes_on() -> None:
    cells = workloads(10)
    caps = Caps(3, 4, Decimal(100))
    first = decide(cells, known(), release("0.34.0"), caps=caps)
    second = decide(cells, again(first.cursor), release("0.34.0"), caps=caps)
    third = decide(cells, again(second.cursor), release("0.34.0"), caps=caps)
    assert [len(d.requests) for d in (first, second, third)] == [3, 1, 0]
    assert third.left_out[0].reason == "at most 4 runs a month"
    assert (third.left_out[0].count, third.left_out[0].waits) == (6, True)
    december = decide(cells, again(third.cursor), caps=caps, now=NOW + timedelta(days=10))
    assert len(december.requests) == 3
    assert december.spent == Spent(3, 3 * ONE)
    assert not set(keys(december)) & {*keys(first), *keys(second)}


def test_the_month_ends_in_utc() -> None:
    caps = replace(MANY, runs_per_month=1)
    cells = workloads(3)
    last = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    first = decide(cells, known(), release("0.34.0"), caps=caps, now=last)
    assert len(first.requests) == 1
    assert decide(cells, first.cursor, caps=caps, now=last + timedelta(seconds=59)).requests == ()
    assert len(decide(cells, first.cursor, caps=caps, now=last + timedelta(seconds=60)).requests) == 1


def test_a_dear_cell_waits_and_does_not_hold_up_the_others() -> None:
    cells = [cell(), cell("p5.48xlarge"), cell("g5.xlarge"), cell("p4d.24xlarge")]
    prices = {"g6e.xlarge": Decimal(4), "p5.48xlarge": Decimal(90), "g5.xlarge": Decimal(2)}

    def estimate(one: BenchmarkCell) -> Decimal:
        if one.instance not in prices:
            raise LaunchError("Nobody knows its price.", code="no_price")
        return prices[one.instance]

    caps = replace(MANY, usd_per_month=Decimal(92), usd_per_run=Decimal(95))
    first = decide(cells, known(), release("0.34.0"), caps=caps, estimate=estimate)
    assert [request.cell.instance for request in first.requests] == ["g6e.xlarge", "g5.xlarge"]
    assert {left.reason for left in first.left_out} == {
        "more than is left of 92 USD a month",
        "Nobody knows its price.",
    }
    december = decide(cells, again(first.cursor), caps=caps, estimate=estimate, now=NOW + timedelta(days=10))
    assert [request.cell.instance for request in december.requests] == ["p5.48xlarge"]
    never = decide(
        cells, known(), release("0.34.0"), caps=replace(caps, usd_per_run=Decimal(80)), estimate=estimate
    )
    assert any("80 USD a run" in left.reason for left in never.left_out)


def test_what_the_orchestrator_remembers_counts_when_the_cursor_was_lost() -> None:
    caps = replace(MANY, runs_per_month=5, usd_per_month=Decimal(10))
    decision = decide(workloads(9), known(), release("0.34.0"), caps=caps, spent=Spent(3, Decimal(1)))
    assert len(decision.requests) == 2
    decision = decide(workloads(9), known(), release("0.34.0"), caps=caps, spent=Spent(1, Decimal(9)))
    assert decision.requests == ()


def test_a_dry_run_says_everything_and_spends_and_forgets_nothing() -> None:
    cells, before = workloads(3), known()
    later = NOW + timedelta(hours=1)
    decision = decide(cells, before, release("0.34.0"), dry_run=True, now=later)
    assert decision.requests == decision.new_cells == ()
    assert len(decision.planned) == 3
    assert sum("would be asked for (dry run)" in line for line in decision.sentences()) == 3
    assert decision.cursor == replace(before, looked_at=later)
    live = decide(cells, again(decision.cursor), release("0.34.0"))
    assert len(live.requests) == 3


def test_a_dry_run_takes_the_first_note_so_that_it_has_something_to_say_later() -> None:
    noted = decide(workloads(2), None, release("0.33.0"), dry_run=True)
    assert noted.planned == ()
    assert len(decide(workloads(2), again(noted.cursor), release("0.34.0"), dry_run=True).planned) == 2
    told = decide(workloads(2), None, release("0.34.0"), dry_run=True, baseline="run")
    assert len(told.planned) == 2
    assert told.cursor.subjects == {}


def test_a_newer_release_ends_what_waited_for_the_older() -> None:
    cells, caps = workloads(5), replace(MANY, runs_per_tick=2)
    first = decide(cells, known(), release("0.34.0"), caps=caps)
    second = decide(cells, again(first.cursor), release("0.35.0"), caps=MANY)
    assert {request.cell.engine_version for request in second.requests} == {"0.35.0"}
    assert len(second.requests) == 5
    assert any("dropped" in left.reason and left.examples == ("vLLM 0.34.0",) for left in second.left_out)


def test_a_look_without_news_goes_on_with_what_waits() -> None:
    cells, caps = workloads(5), replace(MANY, runs_per_tick=2)
    first = decide(cells, known(), release("0.34.0"), caps=caps)
    second = decide(cells, again(first.cursor), caps=caps)
    assert len(second.requests) == 2
    shrunk = decide(cells[:4], again(second.cursor), caps=caps)
    assert shrunk.planned == ()
    assert shrunk.cursor.subjects["vllm"].pending is None


def test_a_cell_that_joins_a_suite_while_its_release_is_followed_is_followed_too() -> None:
    cells, caps = workloads(3), replace(MANY, runs_per_tick=2)
    first = decide(cells, known(), release("0.34.0"), caps=caps)
    grown = [cell("g5.xlarge"), *cells]
    assert [r.cell.instance for r in decide(grown, again(first.cursor)).requests] == [
        "g5.xlarge",
        "g6e.xlarge",
    ]


def test_a_new_revision_concerns_its_model_on_every_rented_machine() -> None:
    cells = [
        cell(),
        cell("trn2.48xlarge", engine_version="0.24.0-neuron2.32"),
        cell("local-1a2b3c4d"),
        cell(model="qwen3-8b", revision="b968826"),
    ]
    name = "model:llama-3.1-8b-instruct"
    noted = decide(cells, None, Found(name, "0e9e39f" + "0" * 33, "c", "r")).cursor
    decision = decide(cells, noted, Found(name, COMMIT, COMMIT, f"meta-llama/Llama-3.1-8B-Instruct@{COMMIT}"))
    assert [(r.cell.instance, r.cell.revision, r.cell.engine_version) for r in decision.requests] == [
        ("g6e.xlarge", "1234567", "0.33.0"),
        ("trn2.48xlarge", "1234567", "0.24.0-neuron2.32"),
    ]
    assert decision.requests[0].run_key.endswith(f":{COMMIT}")
    assert [left.count for left in decision.left_out] == [1]


def test_a_revision_that_was_followed_is_not_followed_again_when_the_branch_goes_back_and_forth() -> None:
    name, other = "model:llama-3.1-8b-instruct", "f" * 40
    cursor = decide([cell()], None, Found(name, other, other, "r")).cursor
    first = decide([cell()], cursor, Found(name, COMMIT, COMMIT, "r"))
    assert len(first.requests) == 1
    back = decide([cell()], again(first.cursor), Found(name, other, other, "r"))
    forth = decide([cell()], again(back.cursor), Found(name, COMMIT, COMMIT, "r"))
    assert forth.planned == ()


@pytest.mark.parametrize(
    ("instance", "version", "value", "expected"),
    [
        ("g6e.xlarge", "0.33.0", "0.34.0", Variant("0e9e39f", "0.34.0")),
        ("g6e.xlarge", "0.34.0", "0.34.0", "already"),
        ("g6e.xlarge", "0.35.0", "0.34.0", "already"),
        ("g6e.xlarge", "nightly", "0.34.0", Variant("0e9e39f", "0.34.0")),
        ("local-1a2b3c4d", "0.33.0", "0.34.0", "not a rented machine"),
        ("endpoint-1a2b3c4d", "0.33.0", "0.34.0", "not a rented machine"),
        ("trn2.48xlarge", "0.24.0-neuron2.32", "0.34.0", None),
    ],
)
def test_which_cells_a_new_vllm_concerns(
    instance: str, version: str, value: str, expected: Variant | str | None
) -> None:
    answer = VLLM.variant(cell(instance, engine_version=version), value)
    assert answer == expected or (
        isinstance(answer, str) and isinstance(expected, str) and expected in answer
    )
    assert VLLM.variant(cell(instance, engine="sglang"), value) is None


@pytest.mark.parametrize(
    ("instance", "version", "expected"),
    [
        ("trn2.48xlarge", "0.24.0-neuron2.32", Variant("0e9e39f", "0.29.0-neuron2.33")),
        ("trn2.48xlarge", "0.29.0-neuron2.33", "already"),
        ("inf2.8xlarge", "0.13-neuron2.28", "up to Neuron SDK 2.28"),
        ("trn1.2xlarge", "0.13-neuron2.28", "up to Neuron SDK 2.28"),
        ("g6e.xlarge", "0.33.0", None),
    ],
)
def test_which_cells_a_new_neuron_sdk_concerns(
    instance: str, version: str, expected: Variant | str | None
) -> None:
    answer = NEURON.variant(cell(instance, engine_version=version), "0.29.0-neuron2.33")
    assert answer == expected or (
        isinstance(answer, str) and isinstance(expected, str) and expected in answer
    )
    assert NEURON.variant(
        cell("inf2.8xlarge", engine_version="0.11-neuron2.27"), "0.13-neuron2.28.1"
    ) == Variant("0e9e39f", "0.13-neuron2.28.1")


def test_a_name_in_a_cursor_leads_back_to_its_subject() -> None:
    assert subject("vllm") is VLLM
    assert subject("neuron") is NEURON
    assert subject(ModelRevision("x").name) == ModelRevision("x")
    assert subject("sglang") is None
    strange = Cursor(NOW, "2026-11", subjects={**known().subjects, "sglang": known().subjects["vllm"]})
    assert "sglang" in decide(workloads(1), strange, Found("sglang", "9", "d", "r")).cursor.subjects


def test_the_tracked_cells_are_the_suites_own() -> None:
    cells = tracked_cells(["catalog", "catalog", "demo"])
    assert len(cells) == len(set(cells)) > 100
    assert {one.family for one in cells} >= {"g6e", "p5", "trn2"}
    models = tracked_models(cells)
    assert models["llama-3.1-8b-instruct"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert "smollm2-135m-instruct" not in models, "a file's hash is no commit of the hub"
    with pytest.raises(UsageError, match=r"watch\.suites: 'no'"):
        tracked_cells(["no"])


def test_the_key_reckoned_without_building_the_cell_is_the_cell_s_own() -> None:
    for version in ("0.34.0", "1.0.0.post1"):
        decision = decide(
            tracked_cells(["catalog"]), known(), release(version), caps=replace(MANY, runs_per_tick=1)
        )
        assert decision.requests
        full = decide(tracked_cells(["catalog"]), known(), release(version))
        waiting = {example for left in decision.left_out if left.waits for example in left.examples}
        assert waiting
        assert waiting < set(keys(full))


@pytest.mark.parametrize("done", [0, 400, 499])
def test_what_is_done_is_not_asked_for_again(done: int) -> None:
    cells = workloads(500)
    cursor = known()
    if done:
        cursor = decide(cells, cursor, release("0.34.0"), caps=Caps(done, done, Decimal(10**6))).cursor
    found = () if done else (release("0.34.0"),)
    decision = decide(cells, cursor, *found, caps=replace(MANY, runs_per_tick=4))
    assert len(decision.requests) == min(4, 500 - done)
