"""The cell of a rented machine: from flags and catalogs to what EKS launches, or to a refusal that names the flag.

Belongs here: model, revision, engine and deployment of a cell on an EC2 instance, what does not go with such a run,
and whether starting it is allowed at all.
Does not belong here: the fit rules (``partitions.matrix``), images and their arguments (``engines``), objects and
prices (``dryrun_eks``), launching.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from accelbench_assets.cli.options import near
from accelbench_assets.cli.state import STATE
from accelbench_assets.cli.target import Flags, Target, request_document
from accelbench_assets.cli.target_load import check_context, check_deadline
from accelbench_assets.errors import LaunchError, UsageError

if TYPE_CHECKING:
    from loadgen.workloads import Workload
    from partitions.cell import BenchmarkCell, Deployment
    from partitions.rows import InstanceRow, ModelRow

ENGINE = "vllm"
WHILE_LOADING = ("fp8",)
"""What a 16-bit checkpoint can be quantised to while it is loaded."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FLAG_OF_CODE = {
    "does_not_fit": "--tp",
    "wrong_weights": "--quantization",
    "unsupported": "--engine-version",
    "bad_config": "--engine-version",
}
_T = TypeVar("_T")


def eks_target(flags: Flags, workload: Workload, *, start: bool) -> Target:
    """The target on the EC2 type ``flags.instance``. With *start*, launching it must be allowed.

    Raises ``UsageError`` naming the flag. Nothing is contacted.
    """
    from partitions.cell import BenchmarkCell, CellError

    if start:
        check_allowed(flags, f"--instance {flags.instance}")
    refuse_local_flags(flags)
    instance, model = instance_row(flags.instance), model_row(flags)
    if flags.engine not in (None, ENGINE):
        raise UsageError(f"--engine: {flags.engine} has no image; on EC2 instances there is {ENGINE}.")
    notes: list[str] = []
    version = flags.engine_version or suites_version(instance)
    if flags.engine_version is None:
        notes.append(f"No --engine-version was given: this is {ENGINE} {version}, the newest of the suites.")
    try:
        cell = BenchmarkCell(
            model.slug, revision_of(flags, model), instance.instance_type, ENGINE, version, deployment_of(flags, model),
            workload.id,
        )  # fmt: skip
    except CellError as error:
        raise UsageError(f"--{error.field.replace('_', '-')}: {str(error).partition(': ')[2]}.") from None
    return _target(flags, cell, workload, notes)


def eks_cell_target(flags: Flags, cell: BenchmarkCell, workload: Workload, *, start: bool) -> Target:
    """The target of a registered *cell* on an EC2 instance. Raises ``UsageError`` naming the flag."""
    if start:
        check_allowed(flags, f"--cell: {cell.instance}")
    refuse_local_flags(flags)
    return _target(flags, cell, workload, [])


def check_allowed(flags: Flags, what: str) -> None:
    """Refuse to spend money that nobody said may be spent; *what* begins the sentence."""
    if (flags.launcher or STATE.settings.launcher) != "eks":
        raise UsageError(
            f"{what} is a rented machine, and launching those is switched off.",
            hint='Add --launcher eks, or set launcher = "eks" (ACCELBENCH_LAUNCHER=eks); --dry-run shows the cost.',
        )
    if not STATE.settings.lake_url.startswith("s3://"):
        raise UsageError(
            f"--lake: the load generator writes into it from another machine, and {STATE.settings.lake_url} is a "
            "folder here.",
            hint="Give --lake s3://bucket/prefix, or set lake.",
        )
    if flags.launcher == "eks":
        STATE.set_flag("launcher", "eks")  # the orchestrating child reads settings, not flags


def refuse_local_flags(flags: Flags) -> None:
    """Refuse flags that mean something only where engine or generator run on this machine."""
    if flags.port is not None:
        raise UsageError("--port: a server on EKS has its own address, so its port is not to be chosen.")
    if flags.workers > 1:
        raise UsageError(
            "--workers: the processes of one generator share one machine.",
            hint="On EKS, --shards N runs N generators that share the schedule.",
        )
    if flags.proxy_env is not None:
        raise UsageError(
            "--proxy-env: the generator runs in the cluster, which does not have this environment variable."
        )


def instance_row(name: str) -> InstanceRow:
    """The catalog's row of an EC2 type."""
    from partitions.catalog import load_instances

    instances = load_instances()
    if name not in instances:
        raise UsageError(f"--instance: {name!r} is not in the catalog. {near(name, list(instances))}")
    return instances[name]


def model_row(flags: Flags) -> ModelRow:
    """The catalog's row of ``--model``."""
    from partitions.catalog import load_models

    models = load_models()
    if flags.model is None:
        raise UsageError("--model: say which model to serve; an EC2 instance has no default.")
    by_id = {row.model_id.lower(): row for row in models.values()}
    row = models.get(flags.model) or by_id.get(flags.model.lower())
    if row is None:
        raise UsageError(f"--model: {flags.model!r} is unknown. {near(flags.model, list(models))}")
    return row


def revision_of(flags: Flags, model: ModelRow) -> str:
    """The cell's revision: 7 hex digits of the catalog's commit or of ``--model-revision``."""
    given = flags.model_revision.lower() if flags.model_revision else None
    if given is None:
        if model.commit is None:
            raise UsageError(
                f"--model {model.slug}: the catalog knows no commit of {model.model_id}, and what is measured must be "
                "pinned.",
                hint="Give --model-revision COMMIT (40 hex digits, from the model's page: Files and versions).",
            )
        return model.revision
    if model.commit is not None and len(given) >= 7 and model.commit.startswith(given):
        return model.revision  # one commit, one cell, however it was written
    if not _COMMIT.fullmatch(given):
        raise UsageError(
            f"--model-revision: {flags.model_revision!r} is not a commit of 40 hex digits.",
            hint="Branches and tags move; the model's page lists its commits under Files and versions.",
        )
    return given[:7]


def held_quantization(model: ModelRow) -> str:
    """How the weights lie in the model's repository; a row of a GGUF file describes what the local engine serves."""
    return "none" if model.commit is None and model.weights_are == "file" else model.quantization


def deployment_of(flags: Flags, model: ModelRow) -> Deployment:
    """What the flags say of the serving side; the rest as the suites have it."""
    from partitions.cell import Deployment
    from partitions.deployment import DTYPES

    held = held_quantization(model)
    wanted = flags.quantization or held
    if wanted != held and held != "none":
        raise UsageError(
            f"--quantization: the checkpoint of {model.slug} is {held}, and cannot be served as {wanted}."
        )
    if wanted not in (held, *WHILE_LOADING):
        raise UsageError(
            f"--quantization: the checkpoint of {model.slug} is not quantised, and while loading it can become "
            f"{' or '.join(WHILE_LOADING)} only, not {wanted}.",
            hint="Weights quantised beforehand are a model of their own: add its row to models.yaml.",
        )
    dtype = model.dtype if held == "none" and model.dtype in DTYPES else "auto"
    return Deployment(
        tp=flags.tp,
        replicas=flags.replicas,
        dtype=dtype,
        quantization=wanted,
        max_model_len=flags.max_model_len,
    )


def suites_version(instance: InstanceRow) -> str:
    """The newest engine version that the suites use on this kind of instance."""
    from partitions.catalog import load_instances, load_suites

    rows = [row for suite in load_suites().values() for row in suite.rows if row.engine == ENGINE]

    def newest(fitting: Callable[[InstanceRow], bool]) -> str | None:
        instances = load_instances()
        found = {
            row.engine_version
            for row in rows
            if any(name in instances and fitting(instances[name]) for name, _ in row.instances)
        }
        return max(found, key=_version_key, default=None)

    # Neuron's families are tied to an SDK; GPUs all take the same image.
    own = newest(lambda row: row.family == instance.family)
    version = own or newest(lambda row: row.accelerator_kind == instance.accelerator_kind == "gpu")
    if version is None:
        raise UsageError(
            f"--engine-version: no suite says which version serves {instance.instance_type}; give one."
        )
    return version


def _version_key(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _target(flags: Flags, cell: BenchmarkCell, workload: Workload, notes: list[str]) -> Target:
    from partitions.catalog import load_models

    model = load_models().get(cell.model)
    if model is None:
        raise UsageError(f"--cell: model {cell.model} is not in the catalog, so its size is not known.")
    _check_serves(flags, cell, model)
    context = cell.deployment.max_model_len or model.max_position_embeddings
    check_context(flags, workload, context)
    kube = STATE.settings.kube
    more: dict[str, Any] = {"requested_by": user_name()}
    if flags.model_revision and _COMMIT.fullmatch(flags.model_revision.lower()):
        more["model_commit"] = flags.model_revision.lower()  # the cell names its first digits only
    request = request_document(
        flags,
        cell,
        workload,
        model_id=model.model_id,
        deadline_s=check_deadline(flags, workload, kube.provisioning_s + kube.start_s),
        more=more,
    )
    return Target(cell, workload, request, notes)


def _check_serves(flags: Flags, cell: BenchmarkCell, model: ModelRow) -> None:
    """Refuse what the engine's image or the instance cannot serve."""
    from accelbench_assets.engines.images import container_engine
    from partitions.matrix import why_not

    row = instance_row(cell.instance)
    # Every replica has an instance to itself.
    reason = why_not(model, row, replace(cell.deployment, replicas=1))
    if reason is not None and not flags.allow_misfit:
        tokens = cell.deployment.max_model_len or model.max_position_embeddings
        shorter = f"a --max-model-len below {tokens}, " if "GiB" in reason else ""
        raise UsageError(
            f"--instance {cell.instance}: {cell.model} with tp {cell.deployment.tp} {_fits_not(reason)}.",
            hint=f"Try another --tp or --instance, {shorter}or --allow-misfit to measure that it does not fit.",
        )

    def asked(what: Callable[[], _T]) -> _T | None:
        try:
            return what()
        except LaunchError as error:
            if error.code == "does_not_fit" and flags.allow_misfit:
                return None
            flag = "--cell" if flags.cell else _FLAG_OF_CODE.get(error.code, "--engine")
            raise UsageError(f"{flag}: {error.message}", hint=error.hint) from None

    engine = asked(lambda: container_engine(cell))
    if engine is not None:
        asked(lambda: engine.image(cell.engine_version, STATE.settings.kube.engine_images))
        asked(lambda: engine.args(cell, model.model_id, None, cell.model))


def _fits_not(reason: str) -> str:
    return reason if reason.startswith("needs ") else f"cannot start: {reason}"


def user_name() -> str | None:
    """Who asks for the run: this process's user; ``None`` where it has no name (a container)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
