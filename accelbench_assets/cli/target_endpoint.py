"""The cell of a server that somebody else runs: what it says of itself, and what the user must say for it.

Belongs here: asking the server once, choosing the model it serves, and naming both in a cell key.
Does not belong here: measuring it (``launch.endpoint`` in the child).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from accelbench_assets.cli.options import near
from accelbench_assets.cli.target import (
    ALLOWANCE_S,
    Flags,
    Target,
    request_document,
)
from accelbench_assets.cli.target_load import check_context, check_deadline
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from loadgen.workloads import Workload

DISCOVERY_TIMEOUT_S = 10.0
UNSTATED = "unstated"


def slug(text: str) -> str:
    """*text* as a model slug: its last path element, lower case; other characters become ``-``."""
    last = text.rstrip("/").rsplit("/", 1)[-1].lower()
    made = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9.-]", "-", last))).strip(".-")
    return made[:80] or "model-" + hashlib.sha256(text.encode()).hexdigest()[:8]


def choose_served(wanted: str | None, served: list[str]) -> str:
    """The served model name: as wanted (exactly or by slug), or the only one there is."""
    if wanted is None:
        if len(served) == 1:
            return served[0]
        if not served:
            raise UsageError("--model: the endpoint lists no models, so the name it expects must be given.")
        raise UsageError(f"--model: the endpoint serves {len(served)} models, choose one. {near('', served)}")
    matching = [name for name in served if wanted in (name, slug(name))]
    if matching:
        return matching[0]
    if served:
        raise UsageError(f"--model: the endpoint does not serve {wanted!r}. {near(wanted, served)}")
    return wanted


def endpoint_target(flags: Flags, workload: Workload, url: str, headers: Mapping[str, str]) -> Target:
    """The target behind *url*. Raises ``UsageError`` naming the flag, ``LaunchError`` when nobody answers."""
    from accelbench_assets.launch.endpoint import discover
    from accelbench_assets.launch.host import endpoint_instance
    from partitions.catalog import load_models
    from partitions.cell import BenchmarkCell, CellError, Deployment

    if flags.instance != "local":
        raise UsageError("--instance cannot be given with --endpoint: the server's own name stands for it.")
    if flags.port is not None:
        raise UsageError("--port cannot be given with --endpoint: the URL has the port.")
    if flags.cell is not None:
        raise UsageError(
            "--cell cannot be given with --endpoint: the cell follows from what the server says."
        )
    found = discover(url, dict(headers), flags.api_key_env, DISCOVERY_TIMEOUT_S)
    served = choose_served(flags.model, [str(name) for name in found.models])
    known = {row.model_id: row for row in load_models().values()}
    row = known.get(served)
    engine = "truth" if found.origin == "simulated" else (flags.engine or found.engine or "openai").lower()
    version = flags.engine_version or found.engine_version or UNSTATED
    if flags.engine and found.engine and flags.engine != found.engine:
        raise UsageError(f"--engine: {flags.engine} was said, but the server says it is {found.engine}.")
    try:
        cell = BenchmarkCell(
            model=row.slug if row else slug(served),
            revision=UNSTATED,
            instance=endpoint_instance(url),
            engine=engine,
            engine_version=re.sub(r"[^a-z0-9._+-]", "-", str(version).lower()),
            deployment=Deployment(
                tp=flags.tp,
                replicas=flags.replicas,
                quantization=flags.quantization or "none",
                max_model_len=flags.max_model_len,
            ),
            workload=workload.id,
        )
    except CellError as error:
        raise UsageError(f"--{error.field.replace('_', '-')}: {str(error).partition(': ')[2]}.") from None
    check_context(flags, workload, flags.max_model_len)
    request = request_document(
        flags,
        cell,
        workload,
        model_id=served,
        deadline_s=check_deadline(flags, workload, ALLOWANCE_S["endpoint"]),
        more={
            "endpoint_url": url,
            "api_key_env": flags.api_key_env,
            "headers": dict(headers),
            "served_model_name": served,
        },
    )
    notes = (
        []
        if found.engine
        else ["The server does not say what it is; --engine and --engine-version would name it."]
    )
    return Target(cell, workload, request, notes)
