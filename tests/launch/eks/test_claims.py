"""What EC2 answers Karpenter, on the emulated cluster: it stands on NodeClaims, and says why a start has no node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from accelbench_assets.launch.eks import EksLauncher
from tests.launch.eks.conftest import MakeBench
from tests.launch.kube import standins
from tests.launch.kube.harness import KubeLocal

QUOTA = (
    "creating instance, insufficient capacity, with fleet error(s), VcpuLimitExceeded: You have requested more vCPU "
    "capacity than your current vCPU limit of 0 allows for the instance bucket that the specified instance type "
    "belongs to."
)
NONE_LEFT = (
    "creating instance, insufficient capacity, with fleet error(s), UnfulfillableCapacity: Unable to fulfill capacity "
    "due to your request configuration."
)
SUBNET = (
    "creating instance, insufficient capacity, with fleet error(s), InsufficientFreeAddressesInSubnet: There are not "
    "enough free addresses in subnet 'subnet-0' to satisfy the requested number of instances."
)
RIGHTS = "creating instance, UnauthorizedOperation: You are not authorized to perform this operation."
TAINT = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}


def never(instance: str, **why: Any) -> dict[str, Any]:
    """A machine of the type that is ordered as soon as a pod needs it, and never becomes a node."""
    labels = {"node.kubernetes.io/instance-type": instance, "accelbench.io/accelerator": "gpu"}
    labels |= {"karpenter.sh/capacity-type": "on-demand", "topology.kubernetes.io/zone": "us-east-1a"}
    room = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "1"}
    return {
        "name": instance.replace(".", "-"),
        "labels": labels,
        "taints": [TAINT],
        "allocatable": room,
        "after_s": 0.1,
        **why,
    }


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    nodes = [
        never("g6e.xlarge", refused=QUOTA),
        never("g6e.2xlarge", refused=NONE_LEFT),
        never("g5.xlarge", refused=SUBNET),
        never("g5.2xlarge", refused=RIGHTS, reason="LaunchFailed"),
        never("g6.xlarge", lost=True),
    ]
    with KubeLocal(
        tmp_path_factory.mktemp("claims"), images=standins.images("truth", []), nodes=nodes
    ) as one:
        yield one


def test_a_quota_of_ec2_ends_the_start_at_once_with_its_own_words(make: MakeBench) -> None:
    error = make(provisioning_s=600.0).failure()
    assert error.code == "quota"
    assert "VcpuLimitExceeded: You have requested more vCPU capacity" in error.message
    assert "NodeClaim" not in error.message


@pytest.mark.parametrize(
    ("instance", "code", "says"),
    [
        ("g6e.2xlarge", "no_capacity", "UnfulfillableCapacity: Unable to fulfill capacity"),
        # Karpenter calls these a lack of capacity as well. They say nothing of what AWS has.
        (
            "g5.xlarge",
            "unschedulable",
            "InsufficientFreeAddressesInSubnet: There are not enough free addresses",
        ),
        ("g5.2xlarge", "unschedulable", "Karpenter: creating instance, UnauthorizedOperation"),
        ("g6.xlarge", "unschedulable", "has not become its node: Node not registered with cluster"),
    ],
)
def test_what_is_said_of_the_claim_is_the_reason(
    make: MakeBench, instance: str, code: str, says: str
) -> None:
    error = make(instance=instance, provisioning_s=3.0).failure()
    assert (error.code, says in error.message) == (code, True), error.message


def test_a_machine_that_never_becomes_a_node_is_paid_for(make: MakeBench) -> None:
    bench = make(instance="g6.xlarge", provisioning_s=3.0)
    keepers: list[Any] = []
    serve = EksLauncher.serve

    def watched(self: EksLauncher, *given: Any) -> Any:
        attempt = self._attempt
        assert attempt is not None
        keepers.append(attempt.keeper)
        return serve(self, *given)

    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EksLauncher, "serve", watched)
        bench.failure()
    (keeper,) = keepers
    assert keeper.billed_since is not None
    assert began <= keeper.billed_since <= time.monotonic()


def test_whoever_may_not_read_claims_carries_on(make: MakeBench, kube: KubeLocal) -> None:
    kube.set_faults(
        [
            {"match": {"resource": "nodeclaims"}, "do": "deny"},
            {"match": {"resource": "events", "namespace": "default"}, "do": "deny"},
        ]
    )
    kube.forget_requests()
    error = make(instance="g6e.2xlarge", provisioning_s=3.0).failure()
    assert error.code == "no_capacity", "a node was ordered for it and none came: as before"
    asked = [one for one in kube.requests() if one["resource"] in ("nodeclaims", "events")]
    assert len([one for one in asked if one["status"] == 403]) == 2, "what is denied is asked for once"
