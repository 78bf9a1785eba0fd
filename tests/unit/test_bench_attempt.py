"""What surrounds an attempt: its sign of life, its money, and the statuses of launches that went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.bench.run import RunFailed, RunRequest, run_benchmark
from accelbench_assets.budget.base import Estimate
from accelbench_assets.errors import LaunchError
from accelbench_assets.lake.lake import Lake
from tests.unit.bench_launcher import FakeLauncher
from tests.unit.test_bench_run import lake, only_record, request

__all__ = ["lake"]
ESTIMATE = Estimate(Decimal("2"), Decimal("3.6"), Decimal("0.5"), "a test")


class Ledger:
    """A budget that remembers what it was told."""

    def __init__(self, refuse: LaunchError | None = None, broken: bool = False) -> None:
        self.refuse, self.broken = refuse, broken
        self.told: list[tuple[str, Any]] = []
        self.run_id = ""

    def reserve(
        self, run_id: str, *, usd: Decimal, usd_per_hour: Decimal, instance_type: str, ttl_s: float
    ) -> Ledger:
        if self.refuse is not None:
            raise self.refuse
        self.run_id = run_id
        self.told.append(("reserve", usd))
        return self

    def renew(self, ttl_s: float) -> None:
        self._tell("renew", ttl_s)

    def settle(self, usd: Decimal) -> None:
        self._tell("settle", usd)

    def _tell(self, what: str, value: Any) -> None:
        self.told.append((what, value))
        if self.broken:
            raise LaunchError("The database is gone.", code="no_ledger")

    def settle_run(self, run_id: str, usd: Decimal | None = None) -> bool:
        return False


def attempt(lake: Lake, tmp_path: Path, launcher: FakeLauncher, budget: Ledger | None, **other: Any) -> Any:
    asked: RunRequest = request(tmp_path, **other)
    return run_benchmark(asked, launcher, lake, lambda kind, message, data: None, budget)


def test_money_is_reserved_renewed_with_the_sign_of_life_and_settled(lake: Lake, tmp_path: Path) -> None:
    ledger, launcher = Ledger(), FakeLauncher(paid=True)
    record = attempt(lake, tmp_path, launcher, ledger, estimate=ESTIMATE)
    assert [what for what, _ in ledger.told] == ["reserve", "renew", "settle"]
    settled = ledger.told[-1][1]
    # Some seconds of work and ten minutes in which the idle node is still there, at 3.6 USD an hour.
    assert Decimal("0.6") < settled < Decimal("0.7")
    assert record["run_cost_usd"] == pytest.approx(float(settled), abs=0.01)


def test_what_rented_no_machine_costs_nothing(lake: Lake, tmp_path: Path) -> None:
    ledger = Ledger()
    launcher = FakeLauncher({"serve": LaunchError("no", code="api_denied")}, paid=True)
    with pytest.raises(RunFailed):
        attempt(lake, tmp_path, launcher, ledger, estimate=ESTIMATE)
    assert ledger.told[-1] == ("settle", Decimal(0))
    record = only_record(lake)
    assert record["run_cost_usd"] is None
    assert "no machine" in record["cost_missing_reason"]


def test_a_run_that_another_process_works_on_is_left_alone(lake: Lake, tmp_path: Path) -> None:
    ledger = Ledger()
    launcher = FakeLauncher({"attempt": LaunchError("taken", code="conflict")}, paid=True)
    launcher.remote = True
    with pytest.raises(LaunchError, match="taken"):
        attempt(lake, tmp_path, launcher, ledger, estimate=ESTIMATE)
    assert [what for what, _ in ledger.told] == ["reserve"]
    assert lake.run_records() == []


def test_a_run_the_ledger_knows_for_dead_hears_of_it(lake: Lake, tmp_path: Path) -> None:
    class Settled(Ledger):
        def renew(self, ttl_s: float) -> None:
            raise LaunchError("The reaper has settled this run.", code="lease_lost")

    with pytest.raises(RunFailed, match="reaper"):
        attempt(lake, tmp_path, FakeLauncher(paid=True), Settled(), estimate=ESTIMATE)
    assert only_record(lake)["status"] == "infra_lost"


def test_a_failed_attempt_settles_as_well(lake: Lake, tmp_path: Path) -> None:
    ledger = Ledger()
    launcher = FakeLauncher({"load": LaunchError("no", code="crash_loop")}, paid=True)
    with pytest.raises(RunFailed):
        attempt(lake, tmp_path, launcher, ledger, estimate=ESTIMATE)
    assert ledger.told[-1][0] == "settle"
    assert ledger.told[-1][1] > 0


def test_a_ledger_that_goes_away_does_not_end_a_run_under_way(lake: Lake, tmp_path: Path) -> None:
    record = attempt(lake, tmp_path, FakeLauncher(paid=True), Ledger(broken=True), estimate=ESTIMATE)
    assert record["status"] == "succeeded"


@pytest.mark.parametrize(
    ("budget", "estimate", "code"),
    [
        (None, ESTIMATE, "no_ledger"),
        (Ledger(), None, "no_price"),
        (Ledger(LaunchError("too much", code="over_budget")), ESTIMATE, "over_budget"),
    ],
)
def test_without_money_nothing_is_started(
    budget: Ledger | None, estimate: Estimate | None, code: str, lake: Lake, tmp_path: Path
) -> None:
    launcher = FakeLauncher(paid=True)
    with pytest.raises(RunFailed):
        attempt(lake, tmp_path, launcher, budget, estimate=estimate)
    assert launcher.moments == ["facts"]
    record = only_record(lake)
    assert (record["status"], record["failure_code"]) == ("failed", code)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("does_not_fit", "does_not_fit"),
        ("no_capacity", "no_capacity"),
        ("node_lost", "infra_lost"),
        ("evicted", "infra_lost"),
        ("lease_lost", "infra_lost"),
        ("cancelled", "cancelled"),
        ("deadline", "timed_out"),
        ("image_pull", "failed"),
    ],
)
def test_a_launch_error_says_what_became_of_the_run(
    code: str, status: str, lake: Lake, tmp_path: Path
) -> None:
    with pytest.raises(RunFailed):
        attempt(lake, tmp_path, FakeLauncher({"load": LaunchError("gone", code=code)}), None)
    record = only_record(lake)
    assert (record["status"], record["failure_code"]) == (status, code)


@pytest.mark.parametrize("fail", [{}, {"load": LaunchError("gone", code="node_lost")}])
def test_the_record_is_written_while_the_sign_of_life_is_held(
    fail: dict[str, BaseException], lake: Lake, tmp_path: Path
) -> None:
    seen: list[bool] = []

    class Watching(FakeLauncher):
        @contextmanager
        def attempt(self, run_id: str, *given: Any) -> Iterator[Watching]:
            try:
                yield self
            finally:
                seen.append(lake.run_record(run_id) is not None)

    with contextlib.suppress(RunFailed):
        attempt(lake, tmp_path, Watching(fail), None)
    assert seen == [True]


def test_a_cancel_is_heard_until_the_commit_and_a_lost_lease_is_not_needed_any_more(
    lake: Lake, tmp_path: Path
) -> None:
    asked = LaunchError("Somebody asked for its end.", code="cancelled")
    with pytest.raises(RunFailed):
        attempt(lake, tmp_path, FakeLauncher({"check": asked}), None)
    assert only_record(lake)["status"] == "cancelled"
    assert lake.read_table("raw_samples").num_rows == 0
    lost = LaunchError("Others take this run for dead.", code="lease_lost")
    assert attempt(lake, tmp_path, FakeLauncher({"check": lost}), None)["status"] == "succeeded"


def test_a_launcher_that_cannot_launch_leaves_a_failed_record(lake: Lake, tmp_path: Path) -> None:
    no = LaunchError("There is no cluster.", code="no_cluster")
    with pytest.raises(RunFailed, match="no cluster"):
        attempt(lake, tmp_path, FakeLauncher({"facts": no}), None)
    assert only_record(lake)["failure_code"] == "no_cluster"
