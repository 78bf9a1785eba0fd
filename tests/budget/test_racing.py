"""Many launches at once: the caps hold exactly, whatever the database's defaults and whoever publishes meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.sqlkit import publish
from accelbench_assets.sqlkit.schema import apply_migrations
from tests.budget.conftest import Rows, caps, take
from tests.support.runs import make_record, put_run

pytestmark = pytest.mark.xdist_group("postgres")

RACERS = """
import json, sys, threading
from accelbench_assets.errors import LaunchError
from tests.budget.conftest import caps, take

dsn, first, count, settings = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
gate, told = threading.Barrier(count + 1), {}

def race(run_id):
    budget = caps(dsn, **settings)
    gate.wait()
    try:
        told[run_id] = take(budget, run_id, "10").reservation_id
    except LaunchError as error:
        told[run_id] = error.code

threads = [threading.Thread(target=race, args=(f"run-{first + n}",)) for n in range(count)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
gate.wait()
for thread in threads:
    thread.join()
print(json.dumps(told))
"""


def race(dsn: str, settings: dict[str, object], *, processes: int = 2, each: int = 10) -> dict[str, str]:
    """What became of each racer: a reservation id or the code of its refusal. All wait for one start."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACERS, dsn, str(n * each), str(each), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(processes)
    ]
    told: dict[str, str] = {}
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in started:
            told |= json.loads(process.communicate(timeout=180)[0])
    finally:
        for process in started:
            process.kill()
            process.wait()
    return told


@pytest.mark.parametrize(
    "settings",
    [{"max_runs": 3}, {"max_runs": 20, "max_usd_per_month": "39.99"}],
    ids=["runs", "month"],
)
def test_of_twenty_racing_launches_exactly_three_reserve(
    dsn: str, sql: Rows, settings: dict[str, object]
) -> None:
    # The stricter default would take each transaction's snapshot before its turn has come.
    sql(f"alter database {dsn.rsplit('/', 1)[1]} set default_transaction_isolation = 'repeatable read'")
    told = race(dsn, settings)
    rows = sql("select run_id, reservation_id::text as id, reserved_usd from accelbench.budget_ledger")
    assert len(told) == 20
    assert {run_id: found for run_id, found in told.items() if found != "over_budget"} == {
        row["run_id"]: row["id"] for row in rows
    }
    assert [row["reserved_usd"] for row in rows] == [Decimal(10)] * 3


def test_one_run_reserved_by_many_at_once_is_one_reservation(dsn: str) -> None:
    budget = caps(dsn, max_runs=1)
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: take(budget, "run-1").reservation_id, range(10)))
    assert len(set(found)) == 1


def test_a_reservation_made_while_the_first_publication_migrates_waits_for_it(dsn: str, sql: Rows) -> None:
    done = threading.Event()
    with psycopg.connect(dsn) as publisher, ThreadPoolExecutor(1) as pool:
        publisher.execute("select pg_advisory_xact_lock(%s)", (publish.ADVISORY_LOCK,))
        apply_migrations(publisher)
        future = pool.submit(take, caps(dsn), "run-1")
        future.add_done_callback(lambda _: done.set())
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while not sql(waiting)[0]["count"] and not done.is_set():
            pass
        assert not done.is_set(), "the table is not there before the publication commits"
        publisher.commit()
        assert future.result(timeout=120).run_id == "run-1"
    assert sql("select count(*) from accelbench.budget_ledger") == [{"count": 1}]


def test_publishing_and_reserving_do_not_wait_for_each_other_once_the_table_is_there(
    dsn: str, sql: Rows, local_lake: Lake
) -> None:
    put_run(local_lake, make_record())
    budget = caps(dsn)
    take(budget, "before")
    with psycopg.connect(dsn) as publisher:
        publisher.execute("select pg_advisory_xact_lock(%s)", (publish.ADVISORY_LOCK,))
        apply_migrations(publisher)
        take(caps(dsn, max_runs=2), "meanwhile").settle(Decimal(1))
    publish.publish(local_lake, dsn)
    with psycopg.connect(dsn) as other:  # and a decision on money does not hold up a publication
        other.execute("select pg_advisory_xact_lock(%s)", (publish.ADVISORY_LOCK + 1,))
        publish.publish(local_lake, dsn)
    assert budget.month_to_date().open_runs == ("before",)
    assert sql("select count(*) from accelbench.runs") == [{"count": 1}]


def test_a_decision_that_takes_too_long_is_refused_in_time(dsn: str) -> None:
    take(caps(dsn), "before")
    from accelbench_assets.budget.ledger import ADVISORY_LOCK, PostgresBudget
    from accelbench_assets.settings_groups import BudgetSettings

    hurried = PostgresBudget(dsn, BudgetSettings(), timeout_s=0.3)
    with psycopg.connect(dsn) as other:
        other.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        with pytest.raises(LaunchError, match="did not answer in time") as late:
            take(hurried, "late")
    assert late.value.code == "no_ledger"
    assert take(PostgresBudget(dsn, BudgetSettings()), "late").run_id == "late"
