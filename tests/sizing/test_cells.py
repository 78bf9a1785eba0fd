"""What is known of a cell without running it: every state with its numbers, and what it was made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.lake.io import table_from_rows
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import ESTIMATE_STATES
from accelbench_assets.sizing.ask import Ask
from accelbench_assets.sizing.calibrate import Calibration
from accelbench_assets.sizing.cells import CellSizer, Quote
from accelbench_assets.sizing.fit import Sizer
from accelbench_assets.sizing.grid import look, quotes, store
from accelbench_assets.sizing.priors import Priors, Range, priors_of
from accelbench_assets.sqlkit.duck import query
from partitions.catalog import load_instances, load_models
from partitions.cell import BenchmarkCell, Deployment
from partitions.rows import GIB
from tests.sizing.lakes import measured, step
from tests.support.runs import make_price, put_prices

AT = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
LLAMA, G6E = "llama-3.1-8b-instruct", "g6e.xlarge"
PRICE = Quote(Decimal("1.861"), None)


def cell(
    instance: str = G6E, workload: str = "fixed.1k1k@1", model: str = LLAMA, version: str = "0.33.0",
    engine: str = "vllm", **deployed: Any,
) -> BenchmarkCell:  # fmt: skip
    row = load_models().get(model)
    deployed = {"dtype": "bf16", "max_model_len": 10240, **deployed}
    revision = row.revision if row else "0e9e39f"
    return BenchmarkCell(model, revision, instance, engine, version, Deployment(**deployed), workload)


def row(one: BenchmarkCell, quote: Quote = PRICE, calibration: Calibration | None = None) -> dict[str, Any]:
    quoted = {one.instance: quote}
    sizer = CellSizer("us-east-1", quoted, calibration) if calibration else CellSizer("us-east-1", quoted)
    found = sizer.row(one, AT)
    assert found["state"] in ESTIMATE_STATES
    assert (found["usd_per_hour"] is None) == (found["price_missing_reason"] is not None)
    table_from_rows("cell_estimates", [found])  # every name and type is the table's
    return found


def test_a_model_that_is_too_large_does_not_fit_and_the_numbers_say_why() -> None:
    found = row(cell(model="llama-3.3-70b-instruct"))
    assert found["state"] == "does_not_fit"
    model, chip = load_models()["llama-3.3-70b-instruct"], load_instances()[G6E].accelerator
    weights, share = model.weight_bytes / GIB, chip.memory_mib * 0.92 / 1024
    one_request = 2 * 80 * 8 * 128 * 2 * 10240 / GIB
    assert f"weights {weights:.2f}" in found["reason"]
    assert f"may use {share:.2f}" in found["reason"]
    assert f"one request of 10,240 tokens {one_request:.2f}" in found["reason"]
    assert found["reason"].startswith(f"does not fit {G6E}: tp 1, bf16: a rank needs 135.")
    assert "requests_per_s" not in found
    assert found["usd_per_hour"] == Decimal("1.861"), "what it costs is known all the same"


def test_a_cell_that_fits_has_intervals_of_exactly_its_own_deployment() -> None:
    found = row(cell())
    assert found["state"] == "estimated"
    assert found["reason"].startswith("estimated, not measured: ")
    assert "priors, nothing measured" in found["reason"]
    for name in ("requests_per_s", "output_tokens_per_s", "ttft_ms", "tpot_ms"):
        assert 0 < found[f"{name}_low"] < found[name] < found[f"{name}_high"] < 4.001 * found[f"{name}_low"]
    assert found["output_tokens_per_s"] == pytest.approx(1024 * found["requests_per_s"])
    assert found["tpot_ms"] <= 50, "the workload's objective"
    ask = Ask(load_models()[LLAMA], (load_instances()[G6E],), isl=1024, osl=1024, ttft_ms=2000, tpot_ms=50,
              max_model_len=10240)  # fmt: skip
    option = Sizer(ask).on(load_instances()[G6E]).option
    assert option is not None
    way = option.way
    assert way.estimate.requests_per_s is not None
    assert found["concurrency"] == way.estimate.concurrency, "the recommender's own arithmetic"
    assert found["requests_per_s"] == way.estimate.requests_per_s.middle
    assert found["kv_cache_tokens"] == way.pool.tokens


def test_ranks_precision_context_and_memory_share_are_the_cells_own() -> None:
    four = (("max-num-seqs", "4"),)
    base, two = row(cell("g6e.12xlarge", args=four)), row(cell("g6e.12xlarge", tp=2, args=four))
    assert two["kv_cache_tokens"] > 2 * base["kv_cache_tokens"], (
        "half of the weights a rank, twice the memory"
    )
    assert two["tpot_ms"] < base["tpot_ms"]
    assert row(cell(quantization="fp8"))["kv_cache_tokens"] > row(cell())["kv_cache_tokens"]
    assert row(cell(kv_cache_dtype="fp8"))["kv_cache_tokens"] > 1.9 * row(cell())["kv_cache_tokens"]
    less = row(cell(args=(("gpu-memory-utilization", "0.5"),)))
    assert less["kv_cache_tokens"] < row(cell())["kv_cache_tokens"] / 4
    assert base["concurrency"] == two["concurrency"] == 4
    assert row(cell(instance="g6.xlarge", max_model_len=None))["state"] == "does_not_fit", "131,072 tokens"


def test_replicas_multiply_rates_and_instances_but_not_times() -> None:
    one, two = row(cell(args=(("max-num-seqs", "8"),))), row(cell(args=(("max-num-seqs", "8"),), replicas=2))
    assert two["requests_per_s"] == pytest.approx(2 * one["requests_per_s"])
    assert two["ttft_ms"] == one["ttft_ms"]
    assert (two["instances"], two["concurrency"], two["usd_per_hour"]) == (2, 16, Decimal("3.722"))
    assert two["kv_cache_tokens"] == one["kv_cache_tokens"]


def test_concurrency_is_never_above_what_the_workload_sends() -> None:
    assert row(cell("p5.4xlarge", "smoke.chat@1"))["concurrency"] == 8
    assert row(cell("p5.4xlarge", "fixed.1k1k@1", replicas=2))["concurrency"] == 128
    assert row(cell("p5.4xlarge", "oha.c12@1"))["concurrency"] <= 12
    prefill = row(cell("p5.4xlarge", "prefill.8k@1"))
    assert prefill["state"] == "estimated"
    assert "tpot_ms" not in prefill, "one output token has no time between tokens"


def test_an_objective_that_one_request_misses_is_told() -> None:
    found = row(cell(workload="oha.c12@1"))  # 64 tokens out within 2 s end to end
    assert (found["state"], found["concurrency"]) == ("estimated", 1)
    assert "already estimated to miss the workload's objective" in found["reason"]
    fast = row(cell("p5.4xlarge", "oha.c12@1"))
    assert fast["ttft_ms"] + 63 * fast["tpot_ms"] <= 2000


UNKNOWN = {
    "prd.chat@1 does not say how long its prompts are on average": {"workload": "prd.chat@1"},
    "takes the lengths of its prompts from a trace": {"workload": "azure23.code@1", "max_model_len": 32768},
    "prefix cache": {"workload": "shared.sys2k@1"},
    "conversations of multiturn.chat@1 grow": {"workload": "multiturn.chat@1"},
    "custom.0a1b2c3d@1 is not a packaged workload": {"workload": "custom.0a1b2c3d@1"},
    "somebody-elses is not in the catalog of models": {"model": "somebody-elses"},
    "g6e.96xlarge is not in the catalog of instance types": {"instance": "g6e.96xlarge"},
    "only vllm's": {"engine": "llamacpp"},
    "expert parallelism are not sized": {"instance": "g6e.12xlarge", "pp": 2},
    "what --cpu-offload-gb changes is not counted": {"args": (("cpu-offload-gb", "20"),)},
    "--gpu-memory-utilization 92 is not a share": {"args": (("gpu-memory-utilization", "92"),)},
    "--max-num-seqs all is not a whole number": {"args": (("max-num-seqs", "all"),)},
    "fp32 is not sized": {"dtype": "fp32"},
    "vLLM makes no awq while loading": {"quantization": "awq"},
    "'turbo' is not a KV cache type": {"kv_cache_dtype": "turbo"},
    "the checkpoint is mxfp4, and the cell says none": {"model": "gpt-oss-20b"},
    "inferentia2 stays at": {"instance": "inf2.8xlarge", "version": "0.24.0-neuron2.32", "tp": 2},
    "is a build for Neuron, not for l40s": {"version": "0.13-neuron2.28"},
}  # fmt: skip


@pytest.mark.parametrize("says", UNKNOWN)
def test_what_cannot_be_told_has_no_figure_and_its_reason(says: str) -> None:
    found = row(cell(**UNKNOWN[says]))
    assert found["state"] == "unknown"
    assert says in found["reason"]
    assert not {"requests_per_s", "ttft_ms", "concurrency"} & found.keys()
    assert found["reason"].startswith(("not estimated: ", "fits, with a KV cache of "))


def test_a_chip_without_a_published_rate_has_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_instances()[G6E]
    name = "g6e.unrated"  # of its own: hashes of rows are remembered by name
    chip = replace(known.accelerator, bf16_tflops=None, fp8_tflops=None)
    monkeypatch.setitem(load_instances(), name, replace(known, instance_type=name, accelerator=chip))
    found = row(cell(name))
    assert found["state"] == "unknown"
    assert found["reason"].startswith("fits, with a KV cache of ")
    assert "l40s has no published 16-bit rate" in found["reason"]
    assert not {"requests_per_s", "ttft_ms", "concurrency"} & found.keys()


def test_a_shared_prefix_without_a_prefix_cache_is_estimated() -> None:
    assert row(cell(workload="shared.sys2k@1", prefix_caching=False))["state"] == "estimated"


DOES_NOT_FIT = {
    "28 attention heads do not divide by tp 8": {"model": "qwen2.5-7b-instruct", "instance": "p5.48xlarge", "tp": 8},
    "a replica needs 8 ranks, the instance has 4": {"instance": "g6e.12xlarge", "tp": 4, "pp": 2},
    "takes up to 32,768 tokens in and 512 out, and the context served is 10,240": {"workload": "long.32k@1"},
    "beyond the model's 131072 positions": {"max_model_len": 200_000, "instance": "p5.48xlarge"},
}  # fmt: skip


@pytest.mark.parametrize("says", DOES_NOT_FIT)
def test_what_cannot_start_says_so(says: str) -> None:
    found = row(cell(**DOES_NOT_FIT[says]))
    assert found["state"] == "does_not_fit"
    assert says in found["reason"]


def test_on_the_edge_of_an_unverified_bound_nothing_is_claimed() -> None:
    """Weights and one request leave less than the engine's middle and more than its least."""
    states = {
        tokens: row(cell(instance="g6.xlarge", max_model_len=tokens)) for tokens in range(30_000, 40_000, 16)
    }
    seen = [found["state"] for found in states.values()]
    assert seen == sorted(seen, key=["estimated", "unknown", "does_not_fit"].index), "in order of the context"
    edge = next(found for found in states.values() if found["state"] == "unknown")
    assert "it is on the edge" in edge["reason"]
    nearly = [found for found in states.values() if found["state"] == "estimated"][-1]
    assert "It does not start if the engine takes" in nearly["reason"]


def test_a_price_that_is_missing_leaves_the_estimate_alone() -> None:
    found = row(cell(), Quote(None, "not fetched yet"))
    assert (found["state"], found["usd_per_hour"], found["price_missing_reason"]) == (
        "estimated", None, "not fetched yet"
    )  # fmt: skip
    nobody = CellSizer("eu-west-1", {}).row(cell(), AT)
    assert nobody["price_missing_reason"] == f"no on-demand price of {G6E} in eu-west-1 is known"


def test_not_sold_goes_before_arithmetic() -> None:
    quote = Quote(None, "not on the list", f"not sold in us-east-1: EC2 has {G6E} elsewhere")
    found = row(cell(), quote)
    assert (found["state"], found["reason"]) == ("not_sold", quote.not_sold)
    assert "requests_per_s" not in found


def test_measured_runs_behind_an_estimate_are_counted_and_make_it_narrower() -> None:
    learnt = Range(0.5, 0.52, 0.55, runs=3)
    prior = priors_of("gpu")
    taught = Calibration(
        {("vllm", "l40s", "bf16"): Priors(learnt, learnt, prior.host_s, prior.kept, "3 runs")}
    )
    before, after = row(cell()), row(cell(), calibration=taught)
    assert (before["measured_runs"], after["measured_runs"]) == (0, 3)
    assert "3 measured runs behind it" in after["reason"]
    assert after["state"] == "estimated", "never measured: this cell was not run"
    assert after["tpot_ms_high"] / after["tpot_ms_low"] < before["tpot_ms_high"] / before["tpot_ms_low"]
    assert before["inputs_sha256"] != after["inputs_sha256"]
    others = Calibration(
        {("vllm", "h100", "bf16"): Priors(learnt, learnt, prior.host_s, prior.kept, "3 runs")}
    )
    assert row(cell(), calibration=others)["inputs_sha256"] == before["inputs_sha256"]


def test_the_hash_follows_every_input_and_nothing_else() -> None:
    base = row(cell())
    assert row(cell()) == base
    changed = [
        row(cell(), Quote(Decimal("1.862"), None)),
        row(cell(), Quote(None, "gone")),
        row(cell(max_model_len=8192)),
        row(cell(workload="vllm.random@1")),
        CellSizer("eu-west-1", {G6E: PRICE}).row(cell(), AT),
    ]
    assert len({found["inputs_sha256"] for found in (base, *changed)}) == 6


# -- over a lake -----------------------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path: Any) -> Lake:
    return Lake.open((tmp_path / "lake").as_uri())


def put_offers(lake: Lake, offers: dict[str, tuple[str, list[str] | None]], day: str = "2026-11-20") -> None:
    rows = [{"instance_type": n, "family": "g6e", "as_of": d, "regions": r} for n, (d, r) in offers.items()]
    lake.write_fact("instance_types", day, table_from_rows("instance_types", rows))


def test_not_sold_only_where_a_source_says_so(lake: Lake) -> None:
    listed = "not on the on-demand price list of eu-west-1"
    put_prices(
        lake,
        [
            make_price("g6e.xlarge", "2.1", region="eu-west-1"),
            make_price("g6.xlarge", None, region="eu-west-1", missing_reason=listed),
            make_price("g5.xlarge", None, region="eu-west-1", missing_reason=listed),
            make_price("g5.xlarge", "0.5", region="eu-west-1", tier="spot"),
            make_price("p5e.48xlarge", None, region="eu-west-1", missing_reason=listed),
            make_price("p4d.24xlarge", None, region="eu-west-1", missing_reason="asking failed: no answer"),
            make_price("g4dn.xlarge", None, region="eu-west-1", missing_reason=listed, fetched_at=None),
            make_price("trn1.2xlarge", None, region="us-east-1", missing_reason="not sold here"),
        ],
    )
    found = quotes(lake, "eu-west-1")
    assert found["g6e.xlarge"] == Quote(Decimal("2.1"), None)
    assert found["g6.xlarge"].not_sold == f"not sold in eu-west-1: {listed}, nor under any other tier"
    assert [n for n, quote in found.items() if quote.not_sold] == ["g6.xlarge"], (
        "a spot price, blocks, a failed question, a blank nobody asked about, and another region say nothing"
    )
    assert "trn1.2xlarge" not in found


def test_ec2s_offerings_decide_in_the_regions_that_were_asked(lake: Lake) -> None:
    day, packaged = "2026-11-20", "2026-10-01"
    put_offers(
        lake,
        {
            "g6e.xlarge": (day, ["eu-west-1", "us-east-1"]),
            "g6.xlarge": (day, ["us-east-1"]),
            "g7e.2xlarge": (packaged, []),
            "g5.xlarge": (packaged, None),
        },
    )
    put_prices(lake, [make_price("g6e.xlarge", None, region="eu-west-1", missing_reason="not sold here")])
    found = quotes(lake, "eu-west-1")
    assert found["g6e.xlarge"].not_sold is None, "EC2 lists it, whatever the price list lacks"
    assert found["g6.xlarge"].not_sold == (
        "not sold in eu-west-1: EC2 lists g6.xlarge in us-east-1 (asked 2026-11-20)"
    )
    assert found["g7e.2xlarge"].not_sold == (
        "not sold in eu-west-1: EC2 has g7e.2xlarge in none of the regions asked"
    )
    assert "g5.xlarge" not in found, "nobody asked"
    assert all(quote.not_sold is None for quote in quotes(lake, "ap-south-1").values()), "nobody asked there"
    put_offers(
        lake, {"g6.xlarge": ("2026-11-21", ["us-east-1"]), "x": ("2026-11-21", ["us-west-2"])}, "2026-11-21"
    )
    assert quotes(lake, "eu-west-1")["g6.xlarge"].not_sold, "a later round elsewhere takes nothing back"
    put_offers(lake, {"g6.xlarge": ("2026-11-22", ["eu-west-1"])}, "2026-11-22")
    assert quotes(lake, "eu-west-1")["g6.xlarge"].not_sold is None


def test_only_rows_whose_inputs_changed_are_written(lake: Lake) -> None:
    for one in (cell(), cell("g6.xlarge"), cell("local-1a2b3c4d", model="tiny"), cell("endpoint-1a2b3c4d")):
        lake.put_cell(one)
    put_prices(lake, [make_price(G6E, "1.861"), make_price("g6.xlarge", "0.8048")])
    first = look(lake, "us-east-1", AT)
    assert (first.cells, first.fresh.num_rows) == (2, 2), "no row for this machine and for endpoints"
    assert first.states == {"estimated": 2}
    store(lake, first, AT)
    again = look(lake, "us-east-1", AT)
    assert (again.states, again.fresh.num_rows) == (first.states, 0)
    before = lake.storage.list("facts/cell_estimates")
    store(lake, again, AT)
    assert lake.storage.list("facts/cell_estimates") == before, "nothing is written"
    put_prices(lake, [make_price(G6E, "2", snapshot_id="s2"), make_price("g6.xlarge", "0.8048", snapshot_id="s2")],
               "2026-11-23")  # fmt: skip
    later = datetime(2026, 11, 23, tzinfo=UTC)
    third = look(lake, "us-east-1", later)
    assert third.fresh.column("usd_per_hour").to_pylist() == [Decimal(2)]
    store(lake, third, later)
    rows = query(
        lake, "select cell_id, usd_per_hour, as_of from cell_estimates order by usd_per_hour"
    ).to_pylist()
    assert [row["usd_per_hour"] for row in rows] == [Decimal("0.8048"), Decimal(2)], "the newest of each cell"
    assert lake.read_table("cell_estimates").num_rows == 3, "and the history is kept"
    assert look(lake, "eu-west-1", later).fresh.num_rows == 2, "another region is another question"


def test_a_measured_run_teaches_the_cells_of_its_accelerator(lake: Lake) -> None:
    put_prices(lake, [make_price(G6E, "1.861")])
    for one in (cell(), cell("p5.4xlarge")):
        lake.put_cell(one)
    store(lake, look(lake, "us-east-1", AT), AT)
    run = measured(lake, G6E, [step(1, 0.1, 90, 22), step(8, 0.7, 120, 28)])
    fresh = look(lake, "us-east-1", AT).fresh.to_pylist()
    taught = {row["cell_id"]: row["measured_runs"] for row in fresh}
    assert taught == {cell().cell_id: 1, run["cell_id"]: 1}, "the cell on H100 has learnt nothing"
