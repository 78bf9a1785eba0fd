"""Twenty launches at once against a cap of three: three run, seventeen are refused before anything is started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from accelbench_assets.bench.run import RunFailed, run_benchmark
from accelbench_assets.budget.base import Estimate
from accelbench_assets.budget.ledger import PostgresBudget
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.base import Deadline, Endpoint, EventSink, ServerSpec
from accelbench_assets.settings_groups import BudgetSettings
from tests.unit.bench_launcher import FakeLauncher
from tests.unit.test_bench_run import request

RACERS, CAP = 20, 3
ESTIMATE = Estimate(Decimal("2"), Decimal("3.6"), Decimal("0.5"), "a test")


class Launch(FakeLauncher):
    """Serves until every other launch has had its answer."""

    def __init__(self, all_answered: threading.Event) -> None:
        super().__init__(paid=True)
        self.all_answered = all_answered

    @contextmanager
    def serve(self, spec: ServerSpec, deadline: Deadline, on_event: EventSink) -> Iterator[Endpoint]:
        assert self.all_answered.wait(120)
        with super().serve(spec, deadline, on_event) as endpoint:
            yield endpoint


def test_exactly_three_of_twenty_launches_run(dsn: str, tmp_path: Path) -> None:
    lake = Lake.open((tmp_path / "lake").as_uri())
    settings = BudgetSettings(max_runs=CAP, max_usd_per_month=Decimal("1000"))
    refused: list[str] = []
    all_answered, start = threading.Event(), threading.Barrier(RACERS)

    def launch(index: int) -> Launch:
        launcher = Launch(all_answered)
        asked = request(tmp_path, estimate=ESTIMATE)
        start.wait(120)
        try:
            run_benchmark(asked, launcher, lake, lambda *event: None, PostgresBudget(dsn, settings))
        except RunFailed as error:
            refused.append(str(error.record["failure_code"]))
            if len(refused) == RACERS - CAP:
                all_answered.set()
        return launcher

    with ThreadPoolExecutor(RACERS) as pool:
        launchers = list(pool.map(launch, range(RACERS)))
    assert refused == ["over_budget"] * (RACERS - CAP)
    assert sum("serve" in launcher.moments for launcher in launchers) == CAP
    assert len(lake.run_records(status="succeeded")) == CAP
    assert lake.open_attempts() == []
    assert PostgresBudget(dsn, settings).month_to_date().open_runs == ()
