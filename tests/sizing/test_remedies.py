"""Remedies are tried before they are printed: each one, applied as a reader would apply it, serves."""

import re
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.pricing.packaged import on_demand
from accelbench_assets.sizing.ask import Ask, find_instances, parse_slo
from accelbench_assets.sizing.money import Price
from accelbench_assets.sizing.recommend import LeftOut, recommend
from accelbench_assets.sizing.remedies import Remedy
from partitions.catalog import load_instances, load_models

MODELS = load_models()
NAMED = ("llama-3.1-8b-instruct", "llama-3.3-70b-instruct", "gpt-oss-120b", "qwen3-30b-a3b")
INSTANCES = (
    *("g5.xlarge", "g6.xlarge", "g6e.12xlarge", "g7e.2xlarge", "p4d.24xlarge", "p5.48xlarge"),
    *("p6-b200.48xlarge", "inf2.24xlarge", "trn1.32xlarge"),
)
ASKS: dict[str, dict[str, Any]] = {
    "long context": {"isl": 1024, "osl": 256, "max_model_len": 131_072, "quantization": "bf16"},
    "tight objective": {"isl": 4096, "osl": 512, "ttft_ms": 500.0, "tpot_ms": 20.0},
    "objective and limit": {"ttft_ms": 1000.0, "tpot_ms": 50.0, "rps": 7.0, "max_usd_per_month": 5000.0},
    "far over the limit": {"rps": 300.0, "max_usd_per_month": 9000.0},
    "hardly a limit at all": {"rps": 56.8, "max_usd_per_month": 7.5},
    "another checkpoint": {"quantization": "int8", "tpot_ms": 15.0},
}


def price(instance_type: str) -> Price:
    """The packaged price, on demand."""
    found = on_demand().get(instance_type)
    if found is None:
        return Price(None, "not packaged", "2026-07-20", "packaged")
    return Price(found.usd_per_hour, found.missing_reason, "2026-07-20", "packaged")


def asked(model: str, words: dict[str, Any], *instances: str) -> Ask:
    rows = tuple(load_instances()[name] for name in instances) or find_instances(None)
    own = MODELS[model].quantization != "none"
    if "max_model_len" in words:
        words = {**words, "max_model_len": min(words["max_model_len"], MODELS[model].max_position_embeddings)}
    more: dict[str, Any] = {
        name: "auto" if name == "quantization" and own else value for name, value in words.items()
    }
    more = {"isl": 1024, "osl": 256, **more}
    return Ask(MODELS[model], rows, **more)


def whole(text: str, after: str) -> int:
    found = re.search(rf"{after} ([\d,]+)", text)
    assert found, text
    return int(found[1].replace(",", ""))


def applied(ask: Ask, one: LeftOut, remedy: Remedy) -> Ask:
    """The ask after a reader has done what *remedy* says, and nothing else."""
    mine, text = replace(ask, instances=find_instances(one.instance_type)), remedy.text
    match remedy.kind:
        case "max_model_len":
            return replace(mine, max_model_len=whole(text, "max_model_len"))
        case "quantization":
            return replace(mine, quantization=text.partition(":")[0])
        case "kv_cache_dtype":
            return replace(mine, kv_cache_dtype="fp8")
        case "slo":
            ttft, tpot = parse_slo(text.partition("objective of ")[2].partition(" ")[0])
            return replace(mine, ttft_ms=ttft, tpot_ms=tpot)
        case "engine_version":
            return replace(mine, engine_version=text.split()[2].rstrip(","))
        case "instance":
            return replace(ask, instances=find_instances(text.partition(":")[0]))
        case "rps":
            there = re.search(r"\d+ x (\S+) carry", text)
            return replace(
                mine if there is None else replace(ask, instances=find_instances(there[1])),
                rps=float(text.split()[0]),
            )
        case "budget":
            named = re.search(r"what ([^ ,]+)", text)
            assert named, text
            return replace(
                ask, instances=find_instances(named[1]), max_usd_per_month=float(whole(text, "USD"))
            )
    raise AssertionError(remedy)


@pytest.mark.parametrize("words", ASKS.values(), ids=list(ASKS))
def test_every_printed_remedy_serves_when_it_is_applied(words: dict[str, Any]) -> None:
    seen: Counter[str] = Counter()
    for model in NAMED:
        ask = asked(model, words, *INSTANCES)
        for one in recommend(ask, price).left_out:
            assert one.remedies, one
            for remedy in one.remedies:
                seen[remedy.kind] += 1
                if remedy.kind != "none":
                    changed = applied(ask, one, remedy)
                    assert changed != ask
                    assert recommend(changed, price).estimated, (model, one.instance_type, remedy)
    assert seen.total() - seen["none"] >= 8, "the sample must have something to try"


@pytest.mark.parametrize("words", ASKS.values(), ids=list(ASKS))
def test_there_are_two_or_it_is_said_that_there_are_not(words: dict[str, Any]) -> None:
    for one in recommend(asked("llama-3.1-8b-instruct", words, *INSTANCES), price).left_out:
        kinds = [remedy.kind for remedy in one.remedies]
        assert len({remedy.text for remedy in one.remedies}) == len(kinds)
        real = [kind for kind in kinds if kind != "none"]
        assert len(real) == 2 or kinds == [*real, "none"], one


def test_a_limit_is_a_number_so_another_always_exists() -> None:
    """Where several instances serve and the limit rules them all out, the limits of two of them are remedies."""
    ask = asked("llama-3.1-8b-instruct", ASKS["hardly a limit at all"])
    for one in recommend(ask, price).left_out:
        assert [remedy.kind for remedy in one.remedies] == ["budget", "budget"], one


def test_a_limit_also_holds_for_the_instances_that_are_named() -> None:
    ask = asked("llama-3.1-8b-instruct", ASKS["objective and limit"])
    for one in recommend(ask, price).left_out:
        for remedy in one.remedies:
            if remedy.kind == "instance":
                cheaper = recommend(applied(ask, one, remedy), price).estimated[0].cost
                assert cheaper.usd_per_month is not None
                assert cheaper.usd_per_month <= 5000


def test_what_can_never_be_estimated_has_no_remedy_of_its_own() -> None:
    row = load_instances()["g7e.2xlarge"]
    unrated = replace(row, accelerator=replace(row.accelerator, bf16_tflops=None, fp8_tflops=None))
    long = {"isl": 1024, "osl": 256, "max_model_len": 131_072}
    (one,) = recommend(replace(asked("gemma-3-27b-it", long), instances=(unrated,)), price).left_out
    assert {remedy.kind for remedy in one.remedies} == {"instance"}


def test_numbers_are_rounded_to_where_they_still_serve() -> None:
    """5 USD an hour carry 3 of them: the rate goes down, the limit up, both hold when typed in again."""

    def five(_: str) -> Price:
        return Price(Decimal("5.0123"), None, "2026-07-20", "test")

    ask = asked(
        "llama-3.1-8b-instruct", {"rps": 500.0, "max_usd_per_month": 3 * 730 * 5.0123 + 1}, "g6e.xlarge"
    )
    (one,) = recommend(ask, five).left_out
    assert one.remedies[0].kind == "rps"
    assert "what 3 of them carry" in one.remedies[0].text
    found = recommend(applied(ask, one, one.remedies[0]), five).estimated[0]
    assert found.cost.instances == 3
    rate = float(one.remedies[0].text.split()[0])
    carried = 0.75 * 3 * found.option.requests_per_s
    assert 0.99 * carried < rate <= carried


def test_where_no_remedy_exists_it_is_said() -> None:
    """405 billion parameters, one instance in the world and a limit that nothing meets: only the money is left."""

    def dear(_: str) -> Price:
        return Price(None, "not sold", "2026-07-20", "test")

    ask = asked("llama-3.1-405b-instruct", {"max_usd_per_month": 1.0}, "g5.xlarge")
    (one,) = recommend(ask, dear).left_out
    assert [remedy.kind for remedy in one.remedies] == ["none"]
    assert one.remedies[0].text == "nothing was found that serves"
