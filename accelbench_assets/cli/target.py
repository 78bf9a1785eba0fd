"""From the flags of ``accelbench run`` to a workload, a cell and a request, or to a refusal that names the
flag.

Belongs here: every check of the flags that say what is served, and the discovery a cell key needs (engine version,
model revision). Does not belong here: the load's own flags (``target_load``), starting anything (``run``, ``child``),
what a cell or workload may be (``partitions``, ``loadgen``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from accelbench_assets.cli.options import near
from accelbench_assets.cli.state import STATE
from accelbench_assets.cli.target_load import choose_workload, load_document, own_load
from accelbench_assets.errors import UsageError
from accelbench_assets.scrub import looks_secret, scrub, url_without_credentials

if TYPE_CHECKING:
    from loadgen.workloads import Workload
    from partitions.cell import BenchmarkCell

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The demo's model, which every installation has."""
ALLOWANCE_S = {"llamacpp": 120.0, "vllm": 300.0, "endpoint": 60.0}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Flags:
    """What the user typed; see ``run`` for the meaning of each."""

    model: str | None = None
    model_revision: str | None = None
    instance: str = "local"
    engine: str | None = None
    engine_version: str | None = None
    tp: int = 1
    quantization: str | None = None
    max_model_len: int | None = None
    replicas: int = 1
    workload: str | None = None
    concurrency: tuple[str, ...] = ()
    rate: tuple[str, ...] = ()
    isl: int | None = None
    osl: int | None = None
    duration: float | None = None
    warmup: float | None = None
    arrival: str | None = None
    slo: str | None = None
    find_capacity: bool = False
    dataset: str | None = None
    workers: int = 1
    shards: int = 1
    allow_misfit: bool = False
    canary: bool = False
    api: str | None = None
    http2: bool = False
    fresh_connections: bool = False
    natural_stop: bool = False
    proxy_env: str | None = None
    launcher: str | None = None
    endpoint: str | None = None
    api_key_env: str | None = None
    headers: tuple[str, ...] = ()
    port: int | None = None
    usd_per_hour: float | None = None
    seed: int = 1
    deadline: float | None = None
    cell: str | None = None


@dataclass(slots=True)
class Target:
    """What will be measured. ``request`` is the document the orchestrating child reads (without run_id)."""

    cell: BenchmarkCell
    workload: Workload
    request: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_headers(values: tuple[str, ...]) -> dict[str, str]:
    """``K=V`` headers; a name or value that looks like a secret is refused without repeating it."""
    headers: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not _HEADER_NAME.fullmatch(name):
            shown = name if equals else "what was given"
            raise UsageError(f"--header: {scrub(shown)!r} is not of the form NAME=VALUE.")
        if looks_secret(name) or scrub(value) != value:
            raise UsageError(
                f"--header {name}: this looks like a secret, which would be stored with the run.",
                hint="Put it into an environment variable and name that with --api-key-env.",
            )
        if not value.isprintable():
            raise UsageError(f"--header {name}: the value holds a control character.")
        headers[name] = value
    return headers


def check_api_key_env(name: str | None) -> None:
    """The name must be one, and set; the text never repeats what was given (it may be the key itself)."""
    if name is None:
        return
    if not _ENV_NAME.fullmatch(name) or scrub(name) != name:
        raise UsageError("--api-key-env takes the name of an environment variable, never the key itself.")
    if not os.environ.get(name):
        raise UsageError(
            "--api-key-env: no environment variable of that name is set.", hint="Export the key first."
        )


def check_endpoint(url: str) -> str:
    """An http(s) URL without credentials, query or fragment, and without a trailing slash."""
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        raise UsageError("--endpoint: this is not a URL.") from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"--endpoint {url_without_credentials(url)}: the URL holds credentials, which would be stored.",
            hint="Name the environment variable that holds the key with --api-key-env.",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise UsageError(f"--endpoint: {scrub(url)!r} is not http://host[:port] or https://host[:port].")
    if parts.query or parts.fragment:
        raise UsageError(
            f"--endpoint {url_without_credentials(url)}: give the URL without a query or fragment."
        )
    return url.rstrip("/").removesuffix("/v1")


def resolve(flags: Flags, home: Path, *, prepare: bool) -> Target:
    """Check everything and find out what the cell key needs. May contact the --endpoint, starts no server.

    With *prepare* a run is to follow: an engine's environment that can be made is made, and launching a rented machine
    must be allowed. Raises ``UsageError`` naming the flag,
    ``LaunchError`` when the endpoint or the local engine is not there.
    """
    check_api_key_env(flags.api_key_env)
    headers = check_headers(flags.headers)
    launcher = flags.launcher or STATE.settings.launcher
    if launcher not in ("local", "eks"):
        raise UsageError(f"--launcher: {launcher!r} is neither local nor eks.")
    rented = flags.endpoint is None and flags.cell is None and is_rented(flags.instance)
    if flags.launcher == "eks" and flags.cell is None and not rented:
        what = (
            "--endpoint is a server that runs already"
            if flags.endpoint
            else "--instance local is this machine"
        )
        raise UsageError(
            f"--launcher eks: {what}, so there is nothing to launch.", hint="Leave --launcher out."
        )
    if not rented and flags.cell is None:
        _refuse_eks_flags(flags)
    if flags.endpoint is None and (flags.api_key_env or headers):
        raise UsageError(
            f"{'--api-key-env' if flags.api_key_env else '--header'} only makes sense with --endpoint URL."
        )
    if flags.cell is not None:
        said = {
            "--model": flags.model,
            "--model-revision": flags.model_revision,
            "--engine": flags.engine,
            "--tp": None if flags.tp == 1 else flags.tp,
            "--replicas": None if flags.replicas == 1 else flags.replicas,
            "--quantization": flags.quantization,
            "--max-model-len": flags.max_model_len,
            "--workload": flags.workload,
            **own_load(flags),
        }
        if given := [name for name, value in said.items() if value not in (None, (), False)]:
            raise UsageError(f"{given[0]} cannot be combined with --cell: the cell says it.")
        if flags.slo is not None and not flags.find_capacity:
            raise UsageError(
                "--slo goes with --find-capacity here: the cell's workload has its own objective."
            )
        if flags.endpoint is None:
            return registered_target(flags, prepare=prepare)
    workload = choose_workload(flags)
    if rented:
        from accelbench_assets.cli.target_eks import eks_target

        return eks_target(flags, workload, start=prepare)
    if flags.endpoint is not None:
        from accelbench_assets.cli.target_endpoint import endpoint_target

        return endpoint_target(flags, workload, check_endpoint(flags.endpoint), headers)
    from accelbench_assets.cli.target_local import local_target

    return local_target(flags, workload, home, prepare=prepare)


def is_rented(instance: str) -> bool:
    """Whether *instance* is an EC2 type; ``UsageError`` with near names for what is no instance at all."""
    from accelbench_assets.launch.host import local_instance
    from partitions.catalog import load_instances
    from partitions.cell import OWN_FAMILIES, CellError, family_of

    if instance in ("local", local_instance()):
        return False
    try:
        return family_of(instance) not in OWN_FAMILIES
    except CellError:
        raise UsageError(
            f"--instance: {instance!r} is unknown. {near(instance, ['local', *load_instances()])}"
        ) from None


def _refuse_eks_flags(flags: Flags) -> None:
    """Refuse flags that mean something only on a rented machine."""
    if flags.shards > 1:
        raise UsageError("--shards: only a run on EKS has several hosts for generators; here, --workers N.")
    if flags.model_revision is not None:
        raise UsageError(
            "--model-revision: only a run on EKS fetches the model; here its files say what they are."
        )
    if flags.allow_misfit:
        raise UsageError("--allow-misfit: only a run on EKS is checked for fitting its instance.")


def check_this_machine(instance: str) -> str:
    """This machine's own id; another machine's or a foreign server's is refused."""
    from accelbench_assets.launch.host import local_instance
    from partitions.cell import family_of

    own = local_instance()
    if instance in ("local", own):
        return own
    if family_of(instance) == "local":
        raise UsageError(f"--instance: {instance} is another machine; this one is {own}.")
    raise UsageError(
        "--instance: a foreign server is measured with --endpoint URL, not by its instance name."
    )


def registered_target(flags: Flags, *, prepare: bool) -> Target:
    """The target of a cell that is in the lake's registry. Raises ``UsageError`` naming ``--cell``."""
    from accelbench_assets.cli.cells import registered_cell
    from loadgen import workloads

    cell = registered_cell(str(flags.cell))
    if cell.workload not in workloads.names():
        raise UsageError(
            f"--cell: its workload {cell.workload} is not one of the packaged ones; run it by its flags."
        )
    workload = workloads.load(cell.workload)
    if is_rented(cell.instance):
        from accelbench_assets.cli.target_eks import eks_cell_target

        return eks_cell_target(flags, cell, workload, start=prepare)
    if flags.launcher == "eks":
        raise UsageError(f"--launcher eks: cell {cell.cell_id} is not one of an EC2 instance.")
    _refuse_eks_flags(flags)
    from accelbench_assets.cli.target_local import local_cell_target

    return local_cell_target(flags, cell, workload, prepare=prepare)


def request_document(
    flags: Flags,
    cell: BenchmarkCell,
    workload: Workload,
    *,
    model_id: str,
    deadline_s: float,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The document for the orchestrating child, without run_id and reproduce_command."""
    from accelbench_assets.bench.request import claimed_level

    return {
        "cell": cell.to_dict(),
        "workload": dict(workload.document),
        "model_id": model_id,
        "evidence_level": claimed_level(workload.evidence_level, flags.dataset),
        "seed": flags.seed,
        "deadline_s": deadline_s,
        "endpoint_url": None,
        "api_key_env": None,
        "headers": {},
        "served_model_name": None,
        "port": flags.port,
        "usd_per_hour": flags.usd_per_hour,
        "suite_id": None,
        "trial_index": 0,
        "load": load_document(flags, workload),
        **more,
    }
