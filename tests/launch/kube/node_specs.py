"""Declared nodes.

Belongs here: what a node is made of, the nodes there are by default. Does not belong here: when they come and go
(``nodes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.launch.kube.conditions import with_condition
from tests.launch.kube.kinds import Obj

_NODE_INFO = {
    **dict.fromkeys(
        ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "kubeProxyVersion"), ""
    ),
    "containerRuntimeVersion": "process://1",
    "kubeletVersion": "v1.36.2-accelbench-emulated",
    "operatingSystem": "linux",
    "architecture": "amd64",
}


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A declared node. ``after_s``: it appears that long after a pod waits that fits it; ``None`` = from the start.

    ``refused`` is why it is never given (by ``reason`` the claim goes and an event stays, or the claim stays with a
    condition); ``lost``: it is given, and never becomes a node.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    after_s: float | None = None
    refused: str = ""
    reason: str = "InsufficientCapacityError"
    lost: bool = False

    @property
    def never(self) -> bool:
        """Whether it is ordered in vain."""
        return bool(self.refused) or self.lost

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> NodeSpec:
        return cls(**{**row, "taints": tuple(row.get("taints") or ())})

    def object(self) -> Obj:
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        allocatable = {"cpu": "4", "memory": "16Gi", "pods": "110", **self.allocatable}
        conditions = with_condition([], "Ready", True, "KubeletReady", "kubelet is posting ready status")
        status = {
            "capacity": allocatable,
            "allocatable": allocatable,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": self.name},
            ],
            "nodeInfo": _NODE_INFO,
        }
        spec = {
            "providerID": f"aws:///us-east-1a/i-{self.name}",
            **({"taints": [dict(one) for one in self.taints]} if self.taints else {}),
        }
        return {
            "metadata": {"name": self.name, "labels": {**labels, **self.labels}},
            "spec": spec,
            "status": status,
        }


def _aws(instance_type: str, **more: str) -> dict[str, str]:
    return {
        "node.kubernetes.io/instance-type": instance_type,
        "karpenter.sh/capacity-type": "on-demand",
        "topology.kubernetes.io/zone": "us-east-1a",
        "topology.kubernetes.io/region": "us-east-1",
        **more,
    }


_GPU_TAINT = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}
DEFAULT_NODES = (
    *(
        NodeSpec(
            f"gpu-{number}",
            _aws("g6e.xlarge", **{"accelbench.io/accelerator": "gpu"}),
            (_GPU_TAINT,),
            {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "1"},
        )
        for number in (1, 2)
    ),
    NodeSpec("cpu-1", _aws("m7i.4xlarge"), (), {"cpu": "16", "memory": "64Gi"}),
)
