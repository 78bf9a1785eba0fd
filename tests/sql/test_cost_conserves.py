"""Every split returns the hour's price: whatever the rates, the cache, the mix; in Python and in SQL."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.tables import SCHEMAS
from accelbench_assets.pricing import cost, fleet
from accelbench_assets.pricing.mix_fit import MIN_MIXES, Mix, MixFit, fit_mixes, regression_split
from accelbench_assets.sqlkit.duck import connect, open_duckdb
from accelbench_assets.sqlkit.files import files_as_written, in_order
from tests.sql.engines import mirror

REL = 1e-9
RATE = st.floats(1e-3, 1e6)
SHARE = st.floats(0, 1)
FEW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
BATCHES = settings(
    FEW, max_examples=15
)  # each holds many rows: planning a query of this size takes a tenth of a second
NOISE = st.one_of(st.none(), st.lists(st.floats(-0.15, 0.15), min_size=8, max_size=8))


def close(found: float, want: float) -> bool:
    return math.isclose(found, want, rel_tol=REL)


# -- Python --------------------------------------------------------------------------------------------------


@FEW
@given(st.floats(1e-3, 1e3), RATE, RATE, SHARE)
def test_the_busy_split_returns_the_hour(price: float, new: float, out: float, share: float) -> None:
    split = cost.busy_time_split(price, new, out, share)
    assert split is not None
    assert close((new * split.input + out * split.output) * 3600 / 1e6, price)


@st.composite
def mixes_of_a_law(draw: st.DrawFn) -> list[Mix]:
    """Mixes that a capacity of so many seconds per token and request leaves, some of them 0."""
    seconds = [draw(st.one_of(st.just(0.0), st.floats(1e-7, 1e-1))) for _ in range(3)]
    assume(any(seconds))
    shapes = draw(
        st.lists(st.tuples(st.integers(1, 32_768), st.integers(1, 8192)), min_size=4, max_size=8, unique=True)
    )
    rates = [1 / (seconds[0] * n_in + seconds[1] * n_out + seconds[2]) for n_in, n_out in shapes]
    return [Mix(x, x * i, x * o) for x, (i, o) in zip(rates, shapes, strict=True)]


def returned(mix: Mix, split: Sequence[float]) -> float:
    """The hour that the mix's tokens and requests pay for."""
    a, b, c = split
    return 3600 * ((mix.input_tokens * a + mix.output_tokens * b) / 1e6 + mix.requests * c)


@FEW
@given(mixes_of_a_law(), st.floats(0.01, 500))
def test_the_regression_split_returns_the_hour_of_every_mix(mixes: list[Mix], price: float) -> None:
    fit = fit_mixes(mixes)
    assume(fit.missing_reason is None)
    split = regression_split(price, fit)
    assert all(close(returned(mix, split), price) for mix in mixes)
    assert all(part >= 0 for part in split)
    assert fit.r2 is None or fit.r2 > 1 - 1e-6


@FEW
@given(mixes_of_a_law(), st.lists(st.floats(-0.3, 0.3), min_size=8, max_size=8), st.floats(0.01, 500))
def test_what_does_not_fit_is_said_or_refused(mixes: list[Mix], noise: list[float], price: float) -> None:
    moved = [Mix(*(part * (1 + by) for part in mix)) for mix, by in zip(mixes, noise, strict=False)]
    fit = fit_mixes(moved)
    if fit.missing_reason is not None:
        assert fit.input_token_s is None
        assert "alike" in fit.missing_reason or (fit.worst_residual or 0) > 0.1
        return
    assert fit.worst_residual is not None
    assert fit.worst_residual <= 0.1
    split = regression_split(price, fit)
    for mix in moved:
        share = fit.capacity_share(mix)
        assert abs(share - 1) <= fit.worst_residual * (1 + 1e-9)
        assert close(returned(mix, split), price * share)


def test_too_few_and_too_alike_mixes_are_refused_with_their_reason() -> None:
    one = Mix(5.0, 5000.0, 1000.0)
    assert (
        fit_mixes([one] * (MIN_MIXES - 1)).missing_reason
        == "3 of the 4 workloads that a fit needs were measured to their limit"
    )
    alike = fit_mixes([Mix(x, 1000 * x, 200 * x) for x in (1.0, 2.0, 3.0, 4.0)])
    assert "too alike" in str(alike.missing_reason)
    with pytest.raises(ValueError, match="there is no fit"):
        regression_split(10, alike)
    with pytest.raises(ValueError, match="every mix needs"):
        fit_mixes([one, one, one, Mix(0.0, 1.0, 1.0)])


# -- SQL -----------------------------------------------------------------------------------------------------

TABLES = ("benchmark_results", "latest_prices", "instance_types")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Schema]:
    """The schemas of the tables that cost reads."""
    lake = Lake.open((tmp_path_factory.mktemp("empty") / "lake").as_uri())
    with connect(lake, only=TABLES) as duck:
        return {name: duck.sql(f"select * from {name}").to_arrow_table().schema for name in TABLES}


@pytest.fixture(scope="module")
def duck(typed: dict[str, pa.Schema]) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with these tables, and the queries of cost over them."""
    with contextlib.closing(open_duckdb()) as connection:
        for name, schema in typed.items():
            connection.register("given", schema.empty_table())
            connection.execute(f"create table {name} as select * from given")
        for file in in_order([*files_as_written("marts"), *files_as_written("views")]):
            if file.name in ("reporting_points", "mix_regression", "cost_per_token"):
                connection.execute(f"create view {file.name} as {file.text}")
        yield connection


def result(number: int, workload: int = 0, **figures: Any) -> dict[str, Any]:
    return {
        "run_id": f"r{number}", "step_index": 0, "cell_id": f"c{number}", "deployment": f"d{workload // 1000}",
        "model": "m", "instance_type": "synthetic", "instance_count": 1, "is_current": True, "verdict": "pass",
        "is_sound": True, "load_kind": "open", "load_value": 2.0, "origin": "simulated", "evidence_level": "demo",
        **figures,
    }  # fmt: skip


def price_row(usd: float) -> dict[str, Any]:
    amount = Decimal(str(usd)).quantize(Decimal("0.0000000001"))
    return {
        "price_point_id": "p",
        "instance_type": "synthetic",
        "tier": "on_demand",
        "instance_hourly_usd": amount,
    }


def fill(
    connection: duckdb.DuckDBPyConnection, typed: dict[str, pa.Schema], **rows: list[dict[str, Any]]
) -> None:
    for name in TABLES:
        table = pa.Table.from_pylist(rows.get(name, []), schema=typed[name])
        connection.execute(f"delete from {name}")
        connection.register("given", table)
        connection.execute(f"insert into {name} select * from given")


def costs(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    text = "select * from cost_per_token where step_index = 0"
    found: list[dict[str, Any]] = connection.sql(text).to_arrow_table().to_pylist()
    return found


def check_hour(row: dict[str, Any], hit: float) -> None:
    """Weighted and busy splits of one row of ``cost_per_token`` times its tokens are the price of its hour."""
    price = float(row["hourly_usd"])
    a, b = row["input_tokens_per_s"], row["output_tokens_per_s"]
    weighted = (
        a * (1 - hit) * row["usd_per_1m_input_split"]
        + a * hit * row["usd_per_1m_cached_input_split"]
        + b * row["usd_per_1m_output_split"]
    )
    assert close(weighted * 3600 / 1e6, price)
    if row["usd_per_1m_input_busy"] is not None:
        busy = a * (1 - hit) * row["usd_per_1m_input_busy"] + b * row["usd_per_1m_output_busy"]
        assert close(busy * 3600 / 1e6, price)
    assert close(row["usd_per_request"] * row["requests_per_s"] * 3600, price)
    assert close(row["usd_per_1m_total"] * (a + b) * 3600 / 1e6, price)


@st.composite
def step(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "requests_per_s": draw(st.floats(1e-3, 1e4)),
        "input_tokens_per_s": draw(RATE),
        "output_tokens_per_s": draw(RATE),
        "prefix_cache_hit_share": draw(st.one_of(st.just(0.0), st.floats(1e-6, 0.999))),
        "itl_mean_ms": draw(st.floats(0.1, 1e3)),
        "decode_concurrency_mean": draw(st.floats(0.01, 500)),
        "ttft_mean_ms": draw(st.floats(0.1, 1e5)),
        "instance_count": draw(st.integers(1, 8)),
    }


@BATCHES
@given(st.lists(step(), min_size=1, max_size=30), st.floats(0.01, 500))
def test_weighted_and_busy_splits_return_the_hour_in_sql(
    duck: duckdb.DuckDBPyConnection, typed: dict[str, pa.Schema], steps: list[dict[str, Any]], price: float
) -> None:
    rows = [result(i, **one) for i, one in enumerate(steps)]
    for row in rows:  # alone, so that its busy share is known
        row |= {"load_kind": "closed", "load_value": 1.0}
    fill(duck, typed, benchmark_results=rows, latest_prices=[price_row(price)])
    found = {row["run_id"]: row for row in costs(duck)}
    assert len(found) == len(rows)
    for row in rows:
        assert found[row["run_id"]]["usd_per_1m_input_busy"] is not None
        check_hour(found[row["run_id"]], row["prefix_cache_hit_share"])
        assert close(float(found[row["run_id"]]["hourly_usd"]), round(price, 10) * row["instance_count"])


def mix_rows(mixes: list[Mix], deployment: int = 0) -> list[dict[str, Any]]:
    """A step at the capacity of each mix, and a heavier one that misses the target."""
    return [
        result(1000 * deployment + i, 1000 * deployment + i, requests_per_s=m.requests, slo_decision=decision,
               input_tokens_per_s=m.input_tokens, output_tokens_per_s=m.output_tokens, prefix_cache_hit_share=0.0)
        | {"step_index": step, "load_value": 2.0 + step}
        for i, m in enumerate(mixes)
        for step, decision in ((0, "pass"), (1, "fail"))
    ]  # fmt: skip


@BATCHES
@given(st.lists(st.tuples(mixes_of_a_law(), NOISE), min_size=1, max_size=8), st.floats(0.01, 500))
def test_the_regression_returns_the_hour_in_sql_and_is_that_of_python(
    duck: duckdb.DuckDBPyConnection,
    typed: dict[str, pa.Schema],
    laws: list[tuple[list[Mix], list[float] | None]],
    price: float,
) -> None:
    deployments = [
        [Mix(*(part * (1 + by) for part in mix)) for mix, by in zip(mixes, noise or [0.0] * 8, strict=False)]
        for mixes, noise in laws
    ]
    rows = [row for number, mixes in enumerate(deployments) for row in mix_rows(mixes, number)]
    fill(duck, typed, benchmark_results=rows, latest_prices=[price_row(price)])
    found = {row["run_id"]: row for row in costs(duck)}
    assert 2 * len(found) == len(rows)
    for number, (mixes, (_, noise)) in enumerate(zip(deployments, laws, strict=True)):
        fit = fit_mixes(mixes)
        said = found[f"r{1000 * number}"]["regression_missing_reason"]
        if fit.missing_reason is None and said is None:
            for place, mix in enumerate(mixes):
                check_fit(found[f"r{1000 * number + place}"], mix, fit, exact=noise is None)
        elif said != fit.missing_reason:  # a hair's breadth from a limit, which only rounding decides
            worst = found[f"r{1000 * number}"]["regression_worst_residual"] or fit.worst_residual
            assert "alike" in f"{said} {fit.missing_reason}" or math.isclose(worst or 0, 0.1, rel_tol=1e-6)


def check_fit(row: dict[str, Any], mix: Mix, fit: MixFit, *, exact: bool) -> None:
    parts = [row[f"usd_per_{n}_regression"] for n in ("1m_input", "1m_output", "request")]
    share = row["regression_capacity_share"]
    assert min(parts) >= 0
    assert close(returned(mix, parts), share * float(row["hourly_usd"]))
    assert math.isclose(share, fit.capacity_share(mix), rel_tol=REL)
    if exact:
        assert close(returned(mix, parts), float(row["hourly_usd"])), "the whole hour"
        assert row["regression_worst_residual"] < REL


def test_a_bad_fit_is_refused_and_said(duck: duckdb.DuckDBPyConnection, typed: dict[str, pa.Schema]) -> None:
    laws = [Mix(x, x * i, x * o) for x, i, o in ((0.6, 8000, 1000), (1.9, 1000, 1000), (0.24, 1000, 8000),
                                                (0.9, 128, 2000))]  # fmt: skip
    bad = [laws[0]._replace(requests=laws[0].requests * 3), *laws[1:]]
    three = mix_rows(laws[:3], 1)
    same = mix_rows([Mix(x, 1000 * x, 200 * x) for x in (1.0, 2.0, 3.0, 4.0)], 2)
    fill(duck, typed, benchmark_results=[*mix_rows(bad), *three, *same], latest_prices=[price_row(10)])
    found = {row["run_id"]: row for row in costs(duck)}
    assert found["r0"]["regression_missing_reason"] == "the worst residual of the fit is over 10 %"
    assert found["r0"]["regression_worst_residual"] > 0.1
    assert (
        found["r1000"]["regression_missing_reason"]
        == "3 of the 4 workloads that a fit needs were measured to their limit"
    )
    assert "too alike" in found["r2000"]["regression_missing_reason"]
    assert all(row["usd_per_1m_input_regression"] is None for row in found.values())


@pytest.mark.xdist_group("postgres")
def test_every_split_returns_the_hour_on_postgres(
    typed: dict[str, pa.Schema], dsn: str, tmp_path: Path
) -> None:
    random = np.random.default_rng(20261101)
    steps = []
    for number in range(200):
        x, a, b = np.exp(random.uniform(-5, 9, 3)).tolist()
        steps.append(
            result(number, 9000 + number, requests_per_s=x, input_tokens_per_s=a, output_tokens_per_s=b,
                   prefix_cache_hit_share=float(random.uniform(0, 0.99)), itl_mean_ms=float(random.uniform(1, 99)),
                   decode_concurrency_mean=float(random.uniform(0.1, 64)), ttft_mean_ms=float(random.uniform(1, 999)),
                   load_value=1.0) | {"load_kind": "closed"}
        )  # fmt: skip
    for row in steps:
        row["deployment"] = row["run_id"]
    shapes = [(8000, 1000), (1000, 1000), (1000, 8000), (128, 2000), (300, 90)]
    laws = []
    for alpha, beta, gamma in ((1e-5, 5e-4, 0.02), (0.0, 1e-3, 0.1), (1e-4, 0.0, 0.0)):
        rates = [1 / (alpha * i + beta * o + gamma) for i, o in shapes]
        laws.append([Mix(x, x * i, x * o) for x, (i, o) in zip(rates, shapes, strict=True)])
    mixes = [row for n, law in enumerate(laws) for row in mix_rows(law, n)]
    for row in mixes:
        row["run_id"] = f"mix-{row['run_id']}"
    base = {"benchmark_results": [*steps, *mixes], "instance_types": []}
    tables = {name: pa.Table.from_pylist(rows, schema=typed[name]) for name, rows in base.items()}
    point = {"price_point_id": "p", "snapshot_id": "s", "provider": "synthetic", "region": "r", "tier": "on_demand",
             "instance_type": "synthetic", "usd_per_hour": Decimal("12.3456789")}  # fmt: skip
    tables["price_points"] = pa.Table.from_pylist([point], schema=SCHEMAS["price_points"])
    for name in ("runs", "cells"):
        tables[name] = SCHEMAS[name].empty_table()
    text = "select * from cost_per_token where step_index = 0"
    with mirror(dsn, tables) as postgres:
        found = {row["run_id"]: row for row in postgres.execute(text).fetchall()}
    assert len(found) == len(steps) + len(mixes) // 2
    for row in steps:
        check_hour(found[row["run_id"]], row["prefix_cache_hit_share"])
        assert found[row["run_id"]]["usd_per_1m_input_busy"] is not None
    for mix, row in zip((m for law in laws for m in law), mixes[::2], strict=True):
        one = found[row["run_id"]]
        assert one["regression_missing_reason"] is None
        parts = [one[f"usd_per_{n}_regression"] for n in ("1m_input", "1m_output", "request")]
        assert close(returned(mix, parts), 12.3456789)


# -- what an hour and a month cost ---------------------------------------------------------------------------


@FEW
@given(st.floats(0, 100), st.floats(0, 1e6), st.integers(1, 36))
def test_time_value_of_nothing_is_the_plain_spread(hourly: float, upfront: float, months: int) -> None:
    plain = fleet.effective_usd_per_hour(hourly, upfront, 730.0 * months)
    assert close(fleet.time_valued_usd_per_hour(hourly, upfront, months, 0.0), plain) or plain == 0
    assert fleet.time_valued_usd_per_hour(hourly, upfront, months, 0.1) >= plain * (1 - REL)


@FEW
@given(st.floats(0, 1e4), st.floats(1e-3, 1e4), st.floats(0.1, 1))
def test_replicas_carry_the_peak_within_the_headroom(peak: float, capacity: float, headroom: float) -> None:
    count = fleet.replicas(peak, capacity, headroom=headroom)
    assert count >= 1
    assert peak <= count * headroom * capacity * (1 + 1e-8) + 1e-8
    assert count == 1 or peak > (count - 1) * headroom * capacity * (1 - 1e-8)


def test_a_flat_day_costs_what_a_steady_month_does() -> None:
    assert fleet.replicas(0.3 / 0.75 * 7.5, 1.0) == 4, "3 / 0.75, whatever the last bit says"
    usd, most = fleet.autoscaled_monthly_usd(10, 12, 5, 360, curve=fleet.CURVES["flat"])
    assert (usd, most) == (pytest.approx(29200), 4)
    usd, most = fleet.autoscaled_monthly_usd(10, 12, 5, 360, curve=(0.0, 1.0))
    assert (usd, most) == (pytest.approx(365 * (10 * (1 + 4) + 3 * 1.0)), 4), "three more start once a day"
    assert fleet.benchmark_usd(36.0, 100, instances=2, node_idle_s=600) == pytest.approx(14.0)
    assert fleet.benchmark_usd(36.0, 5) == pytest.approx(0.6), "a minute is billed at least"
    assert fleet.gateway_usd_per_request(1e-6, 0.5, 8.0, 2e-5, 1e-7) == pytest.approx(1e-6 + 8e-5 + 1e-7)
    assert fleet.used_hour_usd(6, 0.6) == pytest.approx(10.0)
    assert fleet.spot_usd_per_hour(4, 10, 0.1) is None, "nothing useful is left"
    assert cost.utilisation(3600, 2, 1) == pytest.approx(0.5)
    assert cost.request_interval(36, 4, None) == (None, pytest.approx(0.0025))


@pytest.mark.parametrize(
    "call",
    [
        lambda: fleet.effective_usd_per_hour(1, 5),
        lambda: fleet.effective_usd_per_hour(-1),
        lambda: fleet.break_even_utilisation(1, 0),
        lambda: fleet.used_hour_usd(1, 0),
        lambda: fleet.replicas(1, 0),
        lambda: fleet.replicas(1, 1, headroom=0),
        lambda: fleet.time_valued_usd_per_hour(1, 1, 0, 0),
        lambda: fleet.benchmark_usd(1, 1, instances=0),
        lambda: fleet.autoscaled_monthly_usd(1, 1, 1, 1, curve=()),
        lambda: fleet.cold_start_usd(1, float("nan")),
        lambda: cost.busy_time_split(1, 1, 1, 1.5),
        lambda: cost.prefill_busy_share(1, 1, 1, 0),
        lambda: cost.prefill_busy_share(0, 0, 0, 1),
        lambda: cost.blended(cost.TokenSplit(1, 1, 1), -1),
        lambda: cost.utilised(1, 0),
        lambda: cost.utilisation(1, 0, 1),
    ],
)
def test_what_is_no_amount_is_refused(call: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        call()
