"""The documents of ``infra/``, with placeholders replaced as ``envsubst`` would."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
VALUES = {
    "CLUSTER_NAME": "bench", "NODE_ROLE": "bench-node", "AMI_ALIAS": "al2023@v20260801", "AWS_REGION": "us-east-1",
    "LAKE": "s3://bench/lake", "LOG_BUCKET": "bench-logs", "VPC_CIDR": "10.0.0.0/16",
    "CONTROL_PLANE_CIDR": "10.0.250.0/24", "VPC_ENDPOINT_CIDR": "10.0.251.0/24",
    "CODE_REPOSITORY": "registry.example/accelbench", "CODE_TAG": "1", "CODE_IMAGE": "registry.example/accelbench:1",
    "LOADGEN_IMAGE": "registry.example/loadgen:1", "DAGSTER_PG_HOST": "db.example", "DAGSTER_PG_USERNAME": "dagster",
    "DAGSTER_PG_DB": "dagster",
}  # fmt: skip


def rendered(path: Path) -> str:
    """The file's text; a placeholder without a value is an error."""
    return re.sub(r"\$\{(\w+)\}", lambda m: VALUES[m[1]], path.read_text(encoding="utf-8"))


def k8s_files() -> list[Path]:
    return sorted((INFRA / "k8s").glob("*.yaml"))


@cache
def _documents() -> tuple[dict[str, Any], ...]:
    return tuple(d for path in k8s_files() for d in yaml.safe_load_all(rendered(path)) if d)


def objects(kind: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
    found = [d for d in _documents() if kind in (None, d["kind"])]
    return [d for d in found if name in (None, d["metadata"]["name"])]


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = objects(kind, name)
    return found
