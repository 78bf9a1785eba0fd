"""Another object of a run's name in the cluster is not another process that works on the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelbench_assets.bench.run import RunFailed
from accelbench_assets.lake.lake import Lake
from accelbench_assets.launch.kube.errors import KubeError
from tests.unit.bench_launcher import FakeLauncher
from tests.unit.test_bench_attempt import ESTIMATE, Ledger, attempt
from tests.unit.test_bench_run import lake, only_record

__all__ = ["lake"]


@pytest.mark.parametrize("moment", ["serve", "load"])
def test_a_refusal_while_the_attempt_is_held_is_recorded_and_settled(
    moment: str, lake: Lake, tmp_path: Path
) -> None:
    taken = KubeError("Kubernetes refused creating Service x: it exists.", code="conflict", status=409)
    ledger, launcher = Ledger(), FakeLauncher({moment: taken}, paid=True)
    launcher.remote = True
    with pytest.raises(RunFailed, match="it exists"):
        attempt(lake, tmp_path, launcher, ledger, estimate=ESTIMATE)
    assert ledger.told[-1][0] == "settle"
    assert only_record(lake)["failure_code"] == "conflict"
