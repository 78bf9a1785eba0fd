"""Starts that fail say why and leave nothing."""

from __future__ import annotations

from typing import Any

import pytest

from accelbench_assets.errors import DeadlineExceeded, LaunchError
from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.naming import run12
from tests.launch.eks.conftest import MakeBench
from tests.launch.kube.harness import KubeLocal


@pytest.mark.parametrize(
    ("do", "code", "more"),
    [
        ("image_pull_not_found", "image_pull", {}),
        ("image_pull_denied", "image_pull", {}),
        ("image_pull_network", "image_pull", {"start_s": 1.0}),
        ("oom", "oom", {}),
        ("crash", "crash_loop", {}),
        ("gated", "gated_model", {}),
        ("does_not_fit", "does_not_fit", {}),
        ("unschedulable", "no_capacity", {"provisioning_s": 1.0}),
        ("quota", "quota", {}),
        ("forbid", "bad_config", {}),
        ("missing_secret", "bad_config", {"start_s": 1.0}),
        ("hang_not_ready", "not_ready", {"start_s": 2.0}),
    ],
)
def test_a_start_that_fails_says_why(
    make: MakeBench, kube: KubeLocal, do: str, code: str, more: dict[str, Any]
) -> None:
    image = f"vllm/vllm-openai:{do}"  # one that no node holds yet
    bench = make(engine_images={"vllm": image}, **more)
    kube.set_faults([{"pod": image, "do": do}])
    error = bench.failure()
    assert error.code == code, error
    assert error.hint
    bench.await_nothing_left()


def test_an_instance_the_cluster_has_not_is_no_capacity(make: MakeBench) -> None:
    error = make(instance="g6e.2xlarge", provisioning_s=1.0).failure()
    assert error.code == "no_capacity"
    assert "node affinity/selector" in error.message


def test_the_deadline_ends_a_start(make: MakeBench, kube: KubeLocal) -> None:
    image = "vllm/vllm-openai:hangs"
    bench = make(engine_images={"vllm": image})
    kube.set_faults([{"pod": image, "do": "hang_not_ready"}])
    with pytest.raises(DeadlineExceeded), bench.serving(seconds=1.0):
        pass


def test_a_lake_on_this_machine_is_refused_where_pods_are_elsewhere(make: MakeBench) -> None:
    class Real(Cluster):
        def emulated(self) -> bool:
            return False

    bench = make()
    launcher = EksLauncher(bench.launcher._settings, bench.out, cluster=Real.connect(bench.launcher._kube))
    with pytest.raises(LaunchError, match="S3"):
        launcher.attempt_facts()


def test_a_run_somebody_else_works_on_is_left_alone(make: MakeBench, kube: KubeLocal) -> None:
    first, second = make(), make()
    second.spec = first.spec
    with first.serving() as endpoint:
        for item in kube.objects(f"accelbench.io/run={run12(first.spec.run_id)}"):
            if item["kind"] == "Lease":
                body = {"spec": {"holderIdentity": "another_1"}}
                Cluster.connect(first.launcher._kube).patch("Lease", item["metadata"]["name"], body)
        with pytest.raises(LaunchError) as caught, second.serving():
            pass
        assert caught.value.code == "conflict"
        assert "another_1" in caught.value.message
        endpoint.check_alive()
