"""Names, labels and annotations of a run's objects, and the times written on them.

Belongs here: everything by which one process finds and judges objects that another one made.
Does not belong here: the objects (``launch.manifests``), calls (``client``).

Names end in the **last** 12 hex digits of the run id: the first ones of a UUIDv7 are a time stamp and collide.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

PREFIX: Final = "accelbench"
MANAGED: Final[dict[str, str]] = {"app.kubernetes.io/managed-by": PREFIX}
NAME_LABEL: Final = "app.kubernetes.io/name"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
RUN_LABEL: Final = "accelbench.io/run"
CELL_LABEL: Final = "accelbench.io/cell"
RUN_ID: Final = "accelbench.io/run-id"
EXPIRES_AT: Final = "accelbench.io/expires-at"
STALE_S: Final = "accelbench.io/stale-s"
CANCEL: Final = "accelbench.io/cancel"
"""Annotation of a run's Lease; its value says who asked for the end."""
COMPONENTS: Final = ("anchor", "lease", "server", "load", "plan")
EXPIRY_MARGIN_S: Final = 120.0
"""Seconds between the deadline of a run and the ``expires-at`` of its objects: time to end by itself."""

_HEX12 = re.compile(r"[0-9a-f]{12}")


def run12(run_id: str) -> str:
    """The part of a run id that names its objects: 12 characters, valid in names and labels.

    The last 12 hex digits of a UUID; of any other id the first 12 of its SHA-256.
    """
    tail = run_id.replace("-", "").lower()[-12:]
    return tail if _HEX12.fullmatch(tail) else hashlib.sha256(run_id.encode()).hexdigest()[:12]


def base_name(run_id: str) -> str:
    """Name of a run's anchor, Lease, Deployment and Service."""
    return f"{PREFIX}-{run12(run_id)}"


def load_name(run_id: str) -> str:
    """Name of the generator's Job."""
    return f"{base_name(run_id)}-load"


def plan_name(run_id: str) -> str:
    """Name of the ConfigMap with the generator's plan."""
    return f"{base_name(run_id)}-plan"


def labels(run_id: str, cell_id: str, component: str) -> dict[str, str]:
    """Labels of every object and pod template of a run; *component* is one of ``COMPONENTS``."""
    if component not in COMPONENTS:
        raise ValueError(f"{component!r} is not one of {', '.join(COMPONENTS)}.")
    return {
        **MANAGED,
        NAME_LABEL: PREFIX,
        COMPONENT_LABEL: component,
        RUN_LABEL: run12(run_id),
        CELL_LABEL: cell_id,
    }


def annotations(run_id: str, expires_at: datetime, stale_s: float) -> dict[str, str]:
    """Annotations of every object of a run: what the reaper needs when the orchestrator cannot be asked.

    *expires_at* is timezone-aware: the deadline plus ``EXPIRY_MARGIN_S``; *stale_s* is in seconds.
    """
    return {RUN_ID: run_id, EXPIRES_AT: rfc3339(expires_at), STALE_S: f"{stale_s:g}"}


def selector(run_id: str | None = None, component: str | None = None) -> str:
    """A label selector: all our objects, those of one run, those of one kind of part, or both."""
    wanted = dict(MANAGED)
    if run_id is not None:
        wanted[RUN_LABEL] = run12(run_id)
    if component is not None:
        wanted[COMPONENT_LABEL] = component
    return ",".join(f"{name}={value}" for name, value in wanted.items())


def owner_reference(anchor: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of ``ownerReferences`` by which an object goes with the created *anchor*."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": anchor["metadata"]["name"],
        "uid": anchor["metadata"]["uid"],
        "controller": False,
        "blockOwnerDeletion": False,
    }


def rfc3339(moment: datetime) -> str:
    """*moment* (timezone-aware) in UTC with microseconds and ``Z``: Kubernetes' MicroTime."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: object) -> datetime | None:
    """A time of an object or annotation, timezone-aware; ``None`` where there is none or it cannot be read."""
    try:
        moment = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
