"""The ledger's life: reserved, renewed, settled once; lapsed when its run died; refused above each cap."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from accelbench_assets.budget.base import NODE_IDLE_S
from accelbench_assets.budget.ledger import PostgresBudget
from accelbench_assets.errors import LaunchError
from tests.budget.conftest import Rows, caps, take

pytestmark = pytest.mark.xdist_group("postgres")
Ledger = Callable[[], dict[str, dict[str, Any]]]


def age(sql: Rows, run_id: str, seconds: float, *, ttl_s: float | None = None) -> None:
    """As if the run had reserved *seconds* earlier, and its reservation held *ttl_s* seconds from then."""
    sql(
        "update accelbench.budget_ledger set reserved_at = reserved_at - make_interval(secs => %s), "
        "expires_at = coalesce(reserved_at - make_interval(secs => %s) + make_interval(secs => %s), expires_at) "
        "where run_id = %s",
        seconds, seconds, ttl_s, run_id,
    )  # fmt: skip


# -- reserve -------------------------------------------------------------------------------------------------


def test_a_reservation_is_a_row_by_the_databases_clock(
    budget: PostgresBudget, sql: Rows, ledger: Ledger
) -> None:
    (before,) = sql("select clock_timestamp() as at")
    reservation = take(budget, "run-1", "2.5", usd_per_hour="1.861", ttl_s=600)
    (after,) = sql("select clock_timestamp() as at")
    row = ledger()["run-1"]
    assert str(row["reservation_id"]) == reservation.reservation_id
    assert (row["reserved_usd"], row["usd_per_hour"]) == (Decimal("2.5"), Decimal("1.861"))
    assert row["instance_type"] == "g6e.xlarge"
    assert before["at"] <= row["reserved_at"] <= after["at"]
    assert row["expires_at"] - row["reserved_at"] == timedelta(seconds=600)
    assert row["settled_usd"] is row["settled_at"] is row["settled_how"] is None


def test_the_same_run_reserves_once(budget: PostgresBudget, dsn: str, ledger: Ledger) -> None:
    first = take(budget, "run-1")
    again = take(caps(dsn, max_runs=1, max_usd_per_month="0.01", max_usd_per_run="0.01"), "run-1", "99")
    assert again.reservation_id == first.reservation_id
    assert ledger()["run-1"]["reserved_usd"] == 2, "what was reserved stays as it was"
    first.settle(Decimal(1))
    with pytest.raises(LaunchError, match="closed \\(settled\\)") as closed:
        take(budget, "run-1")
    assert closed.value.code == "over_budget"


@pytest.mark.parametrize(
    ("setting", "value", "texts"),
    [
        ("max_usd_per_run", "1.99", ("2.00 USD", "1.99 USD")),
        ("max_usd_per_month", "6.99", ("2.00 USD", "this month has cost 1.00 USD", "4.00 USD", "6.99 USD")),
        ("max_runs", 2, ("2 paid runs", "the cap is 2")),
    ],
)
def test_each_cap_refuses_by_name_and_writes_nothing(
    budget: PostgresBudget, dsn: str, ledger: Ledger, setting: str, value: Any, texts: tuple[str, ...]
) -> None:
    take(budget, "gone").settle(Decimal(1))
    take(budget, "one")
    take(budget, "two")
    before = ledger()
    with pytest.raises(LaunchError) as refused:
        take(caps(dsn, **{setting: value}), "three")
    assert refused.value.code == "over_budget"
    for text in (*texts, f"budget.{setting}", "nothing was started"):
        assert text in refused.value.message
    assert f"ACCELBENCH_BUDGET__{setting.upper()}" in str(refused.value.hint)
    assert ledger() == before


def test_a_cap_may_be_used_to_the_last_cent(dsn: str) -> None:
    take(caps(dsn, max_usd_per_run=2, max_usd_per_month=2, max_runs=1), "run-1", "2")
    with pytest.raises(LaunchError, match="max_usd_per_month"):
        take(caps(dsn, max_usd_per_run=2, max_usd_per_month=2, max_runs=9), "run-2", "0.0000000001")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"usd": text} for text in ("0", "-1", "NaN", "1e10")),
        {"usd_per_hour": "0"},
        *({"ttl_s": seconds} for seconds in (0.0, -1.0, float("nan"), 1e9)),
    ],
)
def test_what_is_no_amount_is_refused_before_anything_is_asked(wrong: dict[str, Any]) -> None:
    nowhere = caps("postgresql://u:p@127.0.0.1:1/x")
    with pytest.raises(ValueError, match=r"amount|zero|ttl_s"):
        take(nowhere, "run-1", **wrong)


# -- settle --------------------------------------------------------------------------------------------------


def test_a_run_settles_once_at_what_it_did_cost(budget: PostgresBudget, ledger: Ledger) -> None:
    reservation = take(budget, "run-1", "2")
    reservation.settle(Decimal("3.25"))  # more than was reserved: so it was
    first = ledger()
    assert first["run-1"]["settled_usd"] == Decimal("3.25")
    assert first["run-1"]["settled_how"] == "settled"
    reservation.settle(Decimal(1))
    reservation.renew(60)
    assert budget.settle_run("run-1") is False
    assert ledger() == first
    state = budget.month_to_date()
    assert (state.spent_usd, state.reserved_usd, state.open_runs) == (Decimal("3.25"), 0, ())


def test_a_run_may_have_cost_nothing_but_not_less(budget: PostgresBudget, ledger: Ledger) -> None:
    reservation = take(budget, "run-1")
    for wrong in ("-0.01", "NaN", "1e10"):
        with pytest.raises(ValueError, match="settlement"):
            reservation.settle(Decimal(wrong))
    reservation.settle(Decimal(0))
    assert ledger()["run-1"]["settled_usd"] == 0


def test_the_reaper_settles_a_dead_run_at_the_time_until_now(
    budget: PostgresBudget, sql: Rows, ledger: Ledger
) -> None:
    reservation = take(budget, "run-1", "20", usd_per_hour="10")
    age(sql, "run-1", 1800)
    assert budget.settle_run("run-1") is True
    row = ledger()["run-1"]
    hours = Decimal(str((row["settled_at"] - row["reserved_at"]).total_seconds())) / 3600
    idle = Decimal(NODE_IDLE_S) / 3600  # its node is there for some minutes yet
    assert abs(row["settled_usd"] - 10 * (hours + idle)) < Decimal("0.000001")
    assert row["settled_how"] == "reaped"
    with pytest.raises(LaunchError, match="taken for dead") as dead:
        reservation.renew(60)
    assert dead.value.code == "lease_lost"
    assert budget.settle_run("never-reserved") is False


def test_a_dead_run_whose_servers_are_gone_costs_no_more_than_its_reservation(
    budget: PostgresBudget, sql: Rows, ledger: Ledger
) -> None:
    take(budget, "run-1", "20", usd_per_hour="10")
    age(sql, "run-1", 200_000, ttl_s=1800)
    assert budget.settle_run("run-1", ran_until_now=False) is True
    assert abs(ledger()["run-1"]["settled_usd"] - 5) < Decimal("0.001"), "half an hour, not a weekend"
    take(budget, "run-2", "1", usd_per_hour="10")
    age(sql, "run-2", 200_000, ttl_s=1800)
    assert budget.settle_run("run-2", ran_until_now=False) is True
    assert ledger()["run-2"]["settled_usd"] == 1


def test_the_reaper_may_know_the_cost(budget: PostgresBudget, ledger: Ledger) -> None:
    take(budget, "run-1")
    assert budget.settle_run("run-1", Decimal("0.5")) is True
    assert ledger()["run-1"]["settled_usd"] == Decimal("0.5")


# -- renew and expiry ----------------------------------------------------------------------------------------


def test_renewing_moves_the_expiry(budget: PostgresBudget, sql: Rows, ledger: Ledger) -> None:
    reservation = take(budget, "run-1", ttl_s=1)
    reservation.renew(3600)
    moved = ledger()["run-1"]
    assert timedelta(seconds=3600) <= moved["expires_at"] - moved["reserved_at"] < timedelta(seconds=3660)
    reservation.renew(60)
    assert ledger()["run-1"]["expires_at"] < moved["expires_at"], "the last word counts"
    sql("delete from accelbench.budget_ledger")
    with pytest.raises(LaunchError, match="has no budget reservation"):
        reservation.renew(60)


@pytest.mark.parametrize(("reserved", "cost"), [("9", "5"), ("4", "4")])
def test_a_run_that_stopped_renewing_is_settled_by_the_next_one(
    dsn: str, sql: Rows, ledger: Ledger, reserved: str, cost: str
) -> None:
    budget = caps(dsn, max_runs=1)
    take(budget, "dead", reserved, usd_per_hour="10000")
    age(sql, "dead", 3.6, ttl_s=1.8)  # seconds, for a month may have begun just now
    seen = budget.month_to_date()
    assert (seen.spent_usd, seen.reserved_usd, seen.open_runs) == (Decimal(cost), 0, ())
    assert ledger()["dead"]["settled_usd"] is None, "looking writes nothing"
    take(budget, "next")
    row = ledger()["dead"]
    assert (row["settled_usd"], row["settled_how"]) == (Decimal(cost), "expired")
    assert row["settled_at"] == row["expires_at"]
    after = budget.month_to_date()
    assert (after.spent_usd, after.reserved_usd, after.open_runs) == (Decimal(cost), 2, ("next",))


@pytest.mark.parametrize("how", ["settled", "reaped"])
def test_a_real_settlement_replaces_an_assumed_one_and_is_final(
    budget: PostgresBudget, sql: Rows, ledger: Ledger, how: str
) -> None:
    late = take(budget, "late", "9", usd_per_hour="10")
    age(sql, "late", 3600, ttl_s=1800)
    take(budget, "next")
    assert ledger()["late"]["settled_how"] == "expired"
    if how == "settled":
        late.settle(Decimal("7.5"))
    else:
        budget.settle_run("late", Decimal("7.5"))
    late.settle(Decimal("1"))
    row = ledger()["late"]
    assert (row["settled_usd"], row["settled_how"]) == (Decimal("7.5"), how)


def test_a_run_that_lives_on_takes_its_reservation_back(
    budget: PostgresBudget, sql: Rows, ledger: Ledger
) -> None:
    frozen = take(budget, "frozen", "9", usd_per_hour="10")
    age(sql, "frozen", 3600, ttl_s=1800)
    take(budget, "next")
    frozen.renew(600)
    assert ledger()["frozen"]["settled_how"] is None
    assert set(budget.month_to_date().open_runs) == {"frozen", "next"}


def test_a_killed_orchestrator_holds_its_money_until_it_expires(
    dsn: str, budget: PostgresBudget, sql: Rows, ledger: Ledger
) -> None:
    program = (
        "import os, signal, sys; from tests.budget.conftest import caps, take\n"
        "take(caps(sys.argv[1]), 'killed', '3')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, dsn], capture_output=True, timeout=180, check=False)
    assert done.returncode == -9, done.stderr
    with pytest.raises(LaunchError, match="max_runs"):
        take(caps(dsn, max_runs=1), "next")
    age(sql, "killed", 600, ttl_s=60)
    take(caps(dsn, max_runs=1), "next")
    assert ledger()["killed"]["settled_how"] == "expired"
    assert budget.month_to_date().reserved_usd == 2


# -- months --------------------------------------------------------------------------------------------------


def test_a_month_ends_at_midnight_utc(dsn: str, budget: PostgresBudget, sql: Rows, ledger: Ledger) -> None:
    take(budget, "warm-up").settle(Decimal(0))  # makes the table
    month = (
        budget.month_to_date().at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    )

    def settled(run_id: str, usd: int, at: datetime) -> None:
        sql(
            "insert into accelbench.budget_ledger values "
            "(default, %s, 'g6e.xlarge', 1, %s, %s, %s, %s, %s, 'settled')",
            run_id, usd, usd, at - timedelta(days=40), at, at,
        )  # fmt: skip

    settled("last month's last moment", 100, month - timedelta(microseconds=1))
    settled("this month's first", 10, month)
    sql(  # it died before the month began, and nobody has looked since
        "insert into accelbench.budget_ledger values (default, 'lapsed', 'g6e.xlarge', 1, 50, null, %s, %s)",
        month - timedelta(hours=30), month - timedelta(hours=1),
    )  # fmt: skip
    sql("alter database " + dsn.rsplit("/", 1)[1] + " set timezone = 'Pacific/Kiritimati'")  # UTC+14
    assert budget.month_to_date().spent_usd == 10
    cap = caps(dsn, max_usd_per_month=12)
    take(cap, "fits", "2")
    with pytest.raises(LaunchError, match=r"this month has cost 10\.00 USD and 2\.00 USD are reserved"):
        take(cap, "does not", "0.01")
    assert ledger()["lapsed"]["settled_usd"] == 29
    assert budget.month_to_date().left_usd == 500 - 12


def test_a_reservation_of_last_month_still_counts_while_it_is_open(
    dsn: str, budget: PostgresBudget, sql: Rows
) -> None:
    take(budget, "long", "3")
    age(sql, "long", 40 * 86_400, ttl_s=41 * 86_400)
    assert budget.month_to_date().reserved_usd == 3
    with pytest.raises(LaunchError, match="max_usd_per_month"):
        take(caps(dsn, max_usd_per_month=4), "next", "1.5")


def test_an_unused_database_has_an_empty_ledger(dsn: str, sql: Rows) -> None:
    state = caps(dsn, max_runs=5).month_to_date()
    assert (state.spent_usd, state.reserved_usd, state.open_runs, state.max_runs) == (0, 0, (), 5)
    assert state.left_usd == 500
    assert sql("select to_regclass('accelbench.budget_ledger') as there") == [{"there": None}]
