"""The recommendation: rankings, prices and their absence, reasons with remedies, and nothing left to chance."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.errors import UsageError
from accelbench_assets.sizing.ask import Ask, find_instances, find_model, parse_slo
from accelbench_assets.sizing.explain import figure, lines
from accelbench_assets.sizing.money import Price, cost_of
from accelbench_assets.sizing.recommend import LeftOut, Recommendation, recommend
from partitions.catalog import instance_families, load_instances, load_models

NAMED = (
    *("llama-3.1-8b-instruct", "llama-3.3-70b-instruct", "qwen3-235b-a22b"),
    *("deepseek-r1", "gpt-oss-120b", "gemma-3-27b-it"),
)
NO_PRICE = {"p5e.48xlarge", "trn2.48xlarge"}


def price(instance_type: str) -> Price:
    """A made-up price: a dollar an hour for every GiB of accelerator memory, over a hundred."""
    row = load_instances()[instance_type]
    if instance_type in NO_PRICE:
        return Price(None, "not on the list", "2026-07-20", "test")
    gib = Decimal(row.accelerator_count * row.accelerator_memory_mib_each) / 1024
    return Price(gib / 100, None, "2026-07-20", "test")


def ask(model: str = "llama-3.1-8b-instruct", instance: str | None = None, **more: Any) -> Ask:
    row = find_model(model)
    assert row is not None
    return Ask(model=row, instances=find_instances(instance), **({"isl": 1024, "osl": 256} | more))


def left(found: Recommendation, instance: str) -> LeftOut:
    return next(one for one in found.left_out if one.instance_type == instance)


@pytest.mark.parametrize("model", NAMED)
@pytest.mark.parametrize("objective", [{}, {"ttft_ms": 1000.0, "tpot_ms": 50.0, "rps": 5.0}])
def test_every_instance_is_ranked_or_left_out_with_two_remedies(
    model: str, objective: dict[str, float]
) -> None:
    found = recommend(ask(model, **objective), price)
    ranked = [one.option.instance.instance_type for one in found.estimated]
    refused = [one.instance_type for one in found.left_out]
    assert sorted(ranked + refused) == sorted(load_instances())
    assert {load_instances()[name].family for name in ranked + refused} == set(instance_families())
    assert [one.place for one in found.estimated] == list(range(1, len(ranked) + 1))
    for one in found.left_out:
        assert one.text
        assert len(one.remedies) == 2, one
        assert len({remedy.text for remedy in one.remedies}) == 2
        assert all(any(c.isdigit() for c in remedy.text) for remedy in one.remedies)
    for option in (one.option for one in found.estimated):
        way = option.way
        assert way.pool.holds_one
        assert 1 <= way.estimate.concurrency <= way.most <= way.by_memory
        assert option.replicas * way.tp <= option.instance.tp_ranks
        for limit, time in (("ttft_ms", way.estimate.ttft_ms), ("tpot_ms", way.estimate.tpot_ms)):
            if limit in objective:
                assert time is not None
                assert time.middle <= objective[limit] * (1 + 1e-9)


def test_the_same_question_has_the_same_answer() -> None:
    first, second = (recommend(ask("gemma-3-27b-it", rps=3.0, tpot_ms=60.0), price) for _ in range(2))
    assert first == second
    assert [lines(one, first.ask) for one in first.estimated] == [
        lines(one, second.ask) for one in second.estimated
    ]


def test_the_order_is_by_cost_and_what_has_no_price_comes_last_with_its_reason() -> None:
    found = recommend(ask("llama-3.3-70b-instruct"), price).estimated
    priced = [one.cost.usd_per_request for one in found if one.cost.usd_per_request is not None]
    assert priced == sorted(priced)
    without = [one for one in found if one.cost.usd_per_hour is None]
    assert {one.option.instance.instance_type for one in without} == NO_PRICE
    assert [one.place for one in without] == [len(found) - 1, len(found)]
    for one in without:
        cost = one.cost
        assert cost.missing_reason == "not on the list"
        assert (cost.usd_per_request, cost.usd_per_1m_output, cost.usd_per_1m_total, cost.usd_per_month) == (
            None,
        ) * 4
        assert (
            "there is no price: not on the list"
            in lines(one, ask("llama-3.3-70b-instruct"))[-1 - len(one.option.warnings)]
        )
    monthly = [
        one.cost.usd_per_month for one in recommend(ask("llama-3.3-70b-instruct", rps=9.0), price).estimated
    ]
    known = [month for month in monthly if month is not None]
    assert known == sorted(known)


def test_cost_of_an_instance_by_hand() -> None:
    """10 USD an hour at 5 requests/s of 1,000 in and 200 out: the golden figures; 12 requests/s need 4."""
    found = cost_of(Price(Decimal(10), None, "2026-07-20", "test"), 5.0, 1000, 200, 12.0, 2)
    assert found.usd_per_request == pytest.approx(0.000555555556, rel=1e-9)
    assert found.usd_per_1m_output == pytest.approx(2.777777778, rel=1e-9)
    assert found.usd_per_1m_total == pytest.approx(0.462962963, rel=1e-9)
    assert (found.instances, found.replicas, found.usd_per_month) == (4, 7, 29200.0)
    alone = cost_of(Price(Decimal(10), None, "2026-07-20", "test"), 5.0, 1000, 200, None, 2)
    assert (alone.instances, alone.replicas, alone.usd_per_month) == (1, 2, 7300.0)


def test_precision_is_only_given_up_where_nothing_else_serves() -> None:
    found = {
        one.option.instance.instance_type: one.option.way
        for one in recommend(ask("llama-3.3-70b"), price).estimated
    }
    assert found["p5en.48xlarge"].weights.precision == "bf16"
    assert found["p5.4xlarge"].weights.precision == "fp8"  # 131 GiB do not fit in 80; 66 do
    assert found["g6e.xlarge"].weights.precision == "int4"
    asked = recommend(ask("llama-3.3-70b", "g6e.xlarge", quantization="bf16"), price)
    assert not asked.estimated
    assert left(asked, "g6e.xlarge").remedies[0].kind == "quantization"
    cheapest = recommend(ask("llama-3.3-70b", "p5.48xlarge", quantization="any"), price).estimated[0].option
    assert (
        cheapest.requests_per_s
        >= recommend(ask("llama-3.3-70b", "p5.48xlarge"), price).estimated[0].option.requests_per_s
    )


def test_a_tight_objective_takes_more_ranks() -> None:
    def ranks(**more: Any) -> int:
        return recommend(ask("llama-3.3-70b", "p5en.48xlarge", **more), price).estimated[0].option.way.tp

    assert ranks() < ranks(tpot_ms=12.0) == 8


def reasons(found: Sequence[LeftOut]) -> set[str]:
    return {one.code for one in found}


def test_why_something_does_not_fit_has_its_numbers() -> None:
    found = left(recommend(ask("llama-3.3-70b", "g5.xlarge"), price), "g5.xlarge")
    assert found.code == "memory"
    assert found.text.startswith("tp 1, bf16: a rank needs 134.1")
    assert "weights 131.42" in found.text
    assert "may use 20.56" in found.text
    assert found.remedies[0].text.startswith("g5.12xlarge: tp 4, fp8")
    assert [remedy.kind for remedy in found.remedies] == ["instance", "instance"]


def test_a_shorter_context_is_the_nearest_remedy() -> None:
    found = recommend(
        ask(instance="g5.xlarge", max_model_len=131072, isl=8000, osl=500, quantization="bf16"), price
    )
    shorter = left(found, "g5.xlarge").remedies[0]
    assert shorter.kind == "max_model_len"
    length = int(shorter.text.split()[1].replace(",", ""))
    assert 8500 <= length < 131072
    again = recommend(
        ask(instance="g5.xlarge", max_model_len=length, isl=8000, osl=500, quantization="bf16"), price
    )
    assert again.estimated
    assert again.estimated[0].option.way.pool.holds_one


def test_an_objective_that_physics_forbids_names_what_would_pass() -> None:
    found = left(recommend(ask("gemma-3-27b-it", "g6.xlarge", tpot_ms=50.0), price), "g6.xlarge")
    assert found.code == "slo"
    relaxed = found.remedies[0]
    assert relaxed.kind == "slo"
    limit = float(relaxed.text.partition("tpot=")[2].partition(" ")[0])
    assert recommend(ask("gemma-3-27b-it", "g6.xlarge", tpot_ms=limit + 0.1), price).estimated


def test_a_monthly_limit_leaves_out_what_costs_more_and_what_has_no_price() -> None:
    found = recommend(ask(rps=40.0, max_usd_per_month=4000.0), price)
    assert all((one.cost.usd_per_month or 0) <= 4000 for one in found.estimated)
    dear = left(found, "p5en.48xlarge")
    assert dear.code == "over_budget"
    assert "over 4,000" in dear.text
    assert "no price" in left(found, "trn2.48xlarge").text
    for one in found.left_out:
        assert len(one.remedies) == 2
    impossible = recommend(ask(rps=4000.0, max_usd_per_month=400.0), price)
    assert not impossible.estimated
    assert any(remedy.kind == "rps" for one in impossible.left_out for remedy in one.remedies)


def test_an_unpublished_rate_makes_no_estimate() -> None:
    row = load_instances()["g7e.2xlarge"]
    unrated = replace(row, accelerator=replace(row.accelerator, bf16_tflops=None, fp8_tflops=None))
    found = left(recommend(replace(ask(), instances=(unrated,)), price), "g7e.2xlarge")
    assert found.code == "no_rate"
    assert "no published 16-bit rate" in found.text


def test_partly_used_instances_are_explicit() -> None:
    found = recommend(ask("gpt-oss-120b", "inf2.24xlarge"), price).estimated[0].option
    assert found.way.tp == 8  # 8 KV heads over 12 ranks would be kept as 72
    assert (found.devices_used, found.instance.accelerator_count) == (4, 6)
    eight = recommend(ask("llama-3.1-8b", "inf2.24xlarge", tpot_ms=60.0), price).estimated[0].option
    assert eight.devices_used == -(-eight.replicas * eight.way.tp // 2)


def test_the_engines_version_decides_on_neuron() -> None:
    found = left(
        recommend(ask(instance="inf2.48xlarge", engine_version="0.24.0-neuron2.32"), price), "inf2.48xlarge"
    )
    assert found.code == "not_served"
    assert found.remedies[0].kind == "engine_version"
    assert "0.13-neuron2.28" in found.remedies[0].text
    with pytest.raises(UsageError, match="engine_version"):
        recommend(ask(instance="inf2.48xlarge", engine_version="0.33.0"), price)


def test_the_arithmetic_adds_up() -> None:
    found = recommend(ask(instance="g5.xlarge", quantization="bf16"), price)
    text = "\n".join(lines(found.estimated[0], found.ask))
    pool = found.estimated[0].option.way.pool
    for part in (
        "16,060,522,496 B = 14.96 GiB",
        "ceil(x 0.92) = 20.56 GiB",
        "not verified on any accelerator",
        "131,072 B a token over 1 rank",
        f"{pool.pool_bytes:,} // 2,097,152 = {pool.blocks:,} blocks",
        f"KV cache size {pool.tokens:,} tokens",
        "1,152 tokens are held on average (1,024 in + 256/2 out) = 72 blocks",
        "priors, nothing measured",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.000180, "0.000180"), (7.351, "7.35"), (98.64, "98.6"), (2713.4, "2,713")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [("ttft=800,tpot=40", (800.0, 40.0)), ("tpot_ms=25ms", (None, 25.0)), ("TTFT=1e3", (1000.0, None))],
)
def test_objectives(text: str, found: tuple[float | None, float | None]) -> None:
    assert parse_slo(text) == found


@pytest.mark.parametrize("text", ["ttft", "ttft=-1", "e2e=100", "ttft=1,ttft=2", "tpot=nan", "ttft=inf", ""])
def test_bad_objectives_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--slo"):
        parse_slo(text)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"isl": 0}, "isl"),
        ({"rps": -1.0}, "rps"),
        ({"tpot_ms": float("nan")}, "tpot_ms"),
        ({"max_usd_per_month": 0.0}, "max_usd_per_month"),
        ({"isl": 200_000}, "131,072 positions"),
        ({"max_model_len": 1000}, "is less than 1,024 tokens in"),
        ({"quantization": "int3"}, "not a known precision"),
        ({"kv_cache_dtype": "int3"}, "not a KV cache type"),
        ({"utilization": 1.5}, "utilization"),
    ],
)
def test_bad_questions_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask(**more)


def test_names_of_models_and_instances() -> None:
    assert find_model("meta-llama/Llama-3.1-8B-Instruct") is load_models()["llama-3.1-8b-instruct"]
    assert find_model("Llama-3.1-8B") is find_model("llama-3.1-8b-instruct")
    assert find_model("gemma-3-27b") is load_models()["gemma-3-27b-it"]
    assert find_model("llama") is None
    assert [row.instance_type for row in find_instances("p5")] == ["p5.4xlarge", "p5.48xlarge"]
    assert find_instances("p5x") == ()


def test_every_model_of_the_catalog_can_be_sized() -> None:
    for row in load_models().values():
        found = recommend(Ask(row, find_instances(None), isl=512, osl=128), price)
        assert found.estimated, row.slug
        assert all(len(one.remedies) == 2 for one in found.left_out), row.slug


def test_what_fits_only_by_the_middle_of_the_engines_own_memory_says_so() -> None:
    found = recommend(ask("qwen3-32b", "g5", quantization="int4"), price).estimated
    told = {
        one.option.instance.instance_type: "does not start if" in " ".join(one.option.warnings)
        for one in found
    }
    for one in found:
        pool = one.option.way.pool
        worst = pool.requested_bytes - pool.weight_bytes - pool.non_kv.high
        assert told[one.option.instance.instance_type] == (worst < pool.blocks_per_request * pool.block_bytes)
    assert set(told.values()) == {True, False}
