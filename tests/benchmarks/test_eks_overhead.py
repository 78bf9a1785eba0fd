"""What a run on Kubernetes costs beside its load: preparing, collecting and committing, on the emulated cluster."""

from __future__ import annotations

import json
import time

import dagster as dg
import pytest

from tests.e2e.test_eks_cell import materialise, world
from tests.support.eks import EksWorld, make_cell, short_load
from tests.support.lakes import s3_server

__all__ = ["s3_server", "world"]
pytestmark = pytest.mark.long


def test_a_cell_costs_five_seconds_beside_its_load(world: EksWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environment().items():
        if name.startswith(("ACCELBENCH_", "AWS_", "KUBECONFIG")):
            monkeypatch.setenv(name, value)
    workload = short_load(concurrency=2, isl=40, osl=8, duration_s=4.0)
    cell = make_cell(workload)
    world.lake().put_cell(cell)
    began = time.perf_counter()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("cells_g6e", [cell.key_text])
        config = {"workload_json": json.dumps(dict(workload.document)), "seed": 7}
        assert materialise(instance, cell.key_text, config).success
    seconds = time.perf_counter() - began
    (record,) = world.lake().run_records(cell_id=cell.cell_id)
    print(
        f"\n{seconds:.1f} s in all; overhead {record['overhead_s']:.2f} s; ready after {record['ready_s']:.1f} s"
    )
    assert record["overhead_s"] < 5.0
    assert seconds < 60.0
