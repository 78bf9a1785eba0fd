"""Parts that pods of a run are made of: placement, hardening, variables, caches.

Belongs here: pieces without a run of their own, each with the reason for its form.
Does not belong here: whole objects (``manifests``), what an engine needs (``engines``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelbench_assets.engines.container import POD_IP, ContainerEngine, model_of
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.facts import without_secrets
from accelbench_assets.scrub import scrub
from partitions.rows import ModelRow

Manifest = dict[str, Any]
GIB = 1024**3
ACCELERATOR_LABEL = "accelbench.io/accelerator"
"""On nodes of the two NodePools, with the kind of accelerator; other nodes have it not."""
DO_NOT_DISRUPT = {"karpenter.sh/do-not-disrupt": "true"}
"""Keeps Karpenter from consolidating or replacing the node of a pod. It does not stop a node's expiry."""

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a server finds its weights: a repository of the Hub with its commit, or a folder on S3 (no revision)."""

    model: str
    revision: str | None

    @property
    def on_hub(self) -> bool:
        """Whether the Hub is asked for it."""
        return self.revision is not None


def metadata(
    name: str, namespace: str, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> Manifest:
    """Metadata of an object."""
    return {
        "name": name,
        "namespace": namespace,
        "labels": dict(labels),
        "annotations": dict(annotations),
    }


def template(labels: Mapping[str, str], annotations: Mapping[str, str], pod: Manifest) -> Manifest:
    """A pod template; pods talk to no API server and take no variables from the namespace's Services."""
    return {
        "metadata": {"labels": dict(labels), "annotations": {**annotations, **DO_NOT_DISRUPT}},
        "spec": {"automountServiceAccountToken": False, "enableServiceLinks": False, **pod},
    }


def accelerated_placement(instance_type: str, taint: str) -> Manifest:
    """On one instance type, whole and never spot: a reclaimed node is a lost run, and its price is not the list's."""
    capacity = {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand", "reserved"]}
    return {
        "nodeSelector": {"node.kubernetes.io/instance-type": instance_type},
        "affinity": {"nodeAffinity": _required([capacity])},
        "tolerations": [{"key": taint, "operator": "Equal", "value": "true", "effect": "NoSchedule"}],
    }


def plain_placement(zone: str | None, shard_labels: Mapping[str, str]) -> Manifest:
    """Away from accelerators, in the servers' zone (another adds its distance to every latency), shards apart."""
    apart = {"labelSelector": {"matchLabels": dict(shard_labels)}, "topologyKey": "kubernetes.io/hostname"}
    found: Manifest = {
        "affinity": {
            "nodeAffinity": _required([{"key": ACCELERATOR_LABEL, "operator": "DoesNotExist"}]),
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}]
            },
        }
    }
    if zone is not None:
        found["nodeSelector"] = {"topology.kubernetes.io/zone": zone}
    return found


def _required(expressions: list[Manifest]) -> Manifest:
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": expressions}]
        }
    }


def hardened(*, drop: bool = True) -> Manifest:
    """Security of a container; without *drop* it keeps the capabilities the runtime gives by default."""
    found: Manifest = {"allowPrivilegeEscalation": False, "privileged": False}
    if drop:
        found["capabilities"] = {"drop": ["ALL"]}
    return found


def literal(arguments: Sequence[str]) -> list[str]:
    """*arguments* as the container shall see them: only our own ``$(POD_IP)`` is replaced by Kubernetes.

    Any other ``$(NAME)`` would put a variable, the token of the Hub too, onto the command line.
    """
    return [text if text == POD_IP else text.replace("$", "$$") for text in arguments]


def env_list(variables: Mapping[str, str]) -> list[Manifest]:
    """Variables in the form of a container, sorted.

    Raises ``LaunchError`` (``bad_config``) for one whose name or value looks like a secret.
    """
    clean = without_secrets(variables)
    for name, value in sorted(variables.items()):
        if name not in clean or scrub(value) != value:
            raise LaunchError(
                f"The variable {name} looks like a secret, and everybody who may read objects could read it.",
                code="bad_config",
                hint="Put it into the Secret that kube.loadgen_secret names.",
            )
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in sorted(variables.items())]


def model_source(spec: ServerSpec, model_cache: str | None, engine: ContainerEngine) -> ModelSource:
    """Where the weights of *spec* are: on S3 as ``CACHE/REPOSITORY/COMMIT`` if the cache is there, else on the Hub.

    Raises ``LaunchError``: ``bad_config`` for a revision that is no commit (the Hub's default moves with time),
    ``unsupported`` for S3 with a flavour whose loader cannot read it.
    """
    cell, row = spec.cell, model_of(spec.cell)
    # A revision of 7 digits names the row's commit; the Hub resolves other commits itself or refuses them.
    candidates = (spec.model_commit, row.commit if row is not None else None)
    commit = next((c for c in candidates if c and c.startswith(cell.revision)), cell.revision)
    if not _COMMIT.fullmatch(commit):
        raise LaunchError(
            f"{cell.model} is not pinned: its revision is {cell.revision}.",
            code="bad_config",
            hint="Give the cell the commit of the model's repository.",
        )
    if model_cache is None or not model_cache.startswith("s3://"):
        return ModelSource(spec.model_id, commit)
    if not engine.streams_from_s3:
        raise LaunchError(
            f"{engine.flavour} cannot load weights from S3.",
            code="unsupported",
            hint="Set kube.model_cache to pvc:NAME, or leave it out.",
        )
    return ModelSource(f"{model_cache.rstrip('/')}/{spec.model_id}/{commit}", None)


def cache_volume(model_cache: str | None, row: ModelRow | None) -> Manifest:
    """The volume at ``/cache``: the claim that is named, else the node's disk.

    The disk's limit is twice the weights (one copy loaded, one being written by a converter) and 32 GiB for compiled
    code; 1 TiB for a model without row. It is no request: Karpenter counts only a node's first volume.
    """
    if model_cache is not None and model_cache.startswith("pvc:"):
        return {"name": "cache", "persistentVolumeClaim": {"claimName": model_cache.removeprefix("pvc:")}}
    gib = 1024 if row is None else 32 + 2 * (row.weight_bytes // GIB + 1)
    return {"name": "cache", "emptyDir": {"sizeLimit": f"{gib}Gi"}}
