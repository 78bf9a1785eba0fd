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

    def month_to_date(self) -> Any:
        raise NotImplementedError


def attempt(lake: Lake, tmp_path: Path, launcher: FakeLauncher, budget: Ledger | None, **other: Any) -> Any:
    asked: RunRequest = request(tmp_path, **other)
    return run_benchmark(asked, launcher, lake, lambda kind, message, data: None, budget)


def test_money_is_reserved_renewed_with_the_sign_of_life_and_settled(lake: Lake, tmp_path: Path) -> None:
    ledger, launcher = Ledger(), FakeLauncher(paid=True)
    attempt(lake, tmp_path, launcher, ledger, estimate=ESTIMATE)
    assert [what for what, _ in ledger.told] == ["reserve", "renew", "settle"]
    settled = ledger.told[-1][1]
    # Some seconds of work and ten minutes in which the idle node is still there, at 3.6 USD an hour.
    assert Decimal("0.6") < settled < Decimal("0.7")


def test_a_failed_attempt_settles_as_well(lake: Lake, tmp_path: Path) -> None:
    ledger = Ledger()
    launcher = FakeLauncher({"serve": LaunchError("no", code="crash_loop")}, paid=True)
    with pytest.raises(RunFailed):
        attempt(lake, tmp_path, launcher, ledger, estimate=ESTIMATE)
    assert ledger.told[-1][0] == "settle"


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


def test_a_lost_lease_ends_the_run_before_its_commit(lake: Lake, tmp_path: Path) -> None:
    lost = LaunchError("Others take this run for dead.", code="lease_lost")
    with pytest.raises(RunFailed):
        attempt(lake, tmp_path, FakeLauncher({"check": lost}), None)
    record = only_record(lake)
    assert record["status"] == "infra_lost"
    assert lake.read_table("raw_samples").num_rows == 0


def test_a_launcher_that_cannot_launch_leaves_a_failed_record(lake: Lake, tmp_path: Path) -> None:
    no = LaunchError("There is no cluster.", code="no_cluster")
    with pytest.raises(RunFailed, match="no cluster"):
        attempt(lake, tmp_path, FakeLauncher({"facts": no}), None)
    assert only_record(lake)["failure_code"] == "no_cluster"
