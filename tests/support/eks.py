"""A whole EKS on one machine for tests: emulated cluster, S3, ledger, and what an orchestrator needs to use them.

The emulated cluster really runs pods as processes; a stand-in answers in the place of vLLM, so every row is simulated.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from accelbench_assets.lake.lake import Lake
from loadgen.workloads import Workload, custom
from partitions.catalog import load_models
from partitions.cell import BenchmarkCell, Deployment
from tests.launch.kube.harness import KubeLocal
from tests.launch.kube.standins import images
from tests.support.lakes import BUCKET
from tests.support.seaweed import Seaweed

ROOT = Path(__file__).resolve().parents[2]
SECRET = "loadgen-s3"
HF_CANARY = "hf_CanaryCanaryCanaryCanary00"
NAMESPACE = "accelbench-bench"
QUICK = {
    "LEASE_RENEW_S": "0.3",
    "LEASE_STALE_S": "3",
    "POLL_S": "0.1",
    "PROVISIONING_S": "8",
    "START_S": "400",
}
# Where no fault is waited for, nothing may look like one because the machine is slow.
PATIENT = {"ACCELBENCH_KUBE__LEASE_STALE_S": "120", "ACCELBENCH_KUBE__PROVISIONING_S": "120"}


def make_cell(workload: Workload, *, replicas: int = 1, instance: str = "g6e.xlarge") -> BenchmarkCell:
    """Llama-3.1-8B on an EC2 instance, as the catalog has it."""
    model = load_models()["llama-3.1-8b-instruct"]
    return BenchmarkCell(
        model=model.slug,
        revision=model.revision,
        instance=instance,
        engine="vllm",
        engine_version="0.33.0",
        deployment=Deployment(dtype="bf16", max_model_len=2048, replicas=replicas),
        workload=workload.id,
    )


def short_load(**changes: Any) -> Workload:
    """Two users for two seconds."""
    return custom(
        **{
            "concurrency": 2,
            "isl": 24,
            "osl": 6,
            "duration_s": 2.0,
            "warmup_s": 0.3,
            "tail_s": 5.0,
            **changes,
        }
    )


class EksWorld:
    """Cluster, lake and settings; ``environment()`` is all an orchestrator's process needs."""

    def __init__(
        self, folder: Path, s3: Seaweed, *, engine: str = "truth", dsn: str | None = None, **kube: Any
    ) -> None:
        self.folder, self.s3, self.dsn = folder, s3, dsn
        self.home = folder / "home"
        self.lake_url = f"s3://{BUCKET}/{uuid.uuid4().hex}/lake"
        self.kube = KubeLocal(folder / "kube", images=images(engine), **{"scale": 0.05, **kube})

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self.kube.__enter__()
        self._secret(SECRET, self.s3.environment())
        self._secret("accelbench-hf-token", {"token": HF_CANARY})
        return self

    def __exit__(self, *stop: object) -> None:
        self.kube.__exit__(None, None, None)

    def _secret(self, name: str, data: Mapping[str, str]) -> None:
        self.kube.control(
            "POST",
            f"/api/v1/namespaces/{NAMESPACE}/secrets",
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()},
            },
        )

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of an orchestrator: cluster, lake, ledger, and times that fit a test."""
        found = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "ACCELBENCH_HOME": str(self.home),
            "ACCELBENCH_LAKE": self.lake_url,
            "ACCELBENCH_LAUNCHER": "eks",
            "ACCELBENCH_KUBE__LOADGEN_SECRET": SECRET,
            **{f"ACCELBENCH_KUBE__{name}": value for name, value in QUICK.items()},
            **self.s3.environment(),
            **self.kube.env(),
        }
        if self.dsn is not None:
            found["ACCELBENCH_DATABASE_URL"] = self.dsn
        return {**found, **more}

    def lake(self) -> Lake:
        """The lake; the caller's environment must have the S3 variables."""
        return Lake.open(self.lake_url)

    def left(self) -> list[str]:
        """Everything with our label that the cluster still holds."""
        found = self.kube.objects("app.kubernetes.io/managed-by=accelbench")
        return [f"{item['kind']}/{item['metadata']['name']}" for item in found]


def request_json(cell: BenchmarkCell, workload: Workload, run_id: str, **more: Any) -> str:
    """What ``tests.faults.orchestrate`` reads."""
    return json.dumps({"cell": cell.to_dict(), "workload": dict(workload.document), "run_id": run_id, **more})


PYTHON = sys.executable
