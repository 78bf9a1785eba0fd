"""The cell of an engine on this machine: its version, the model's files and what they imply.

Belongs here: turning flags into the cell of a local engine, and refusing what this machine does not have.
Does not belong here: the engines (``engines``), starting them (``launch``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.options import near
from accelbench_assets.cli.state import STATE
from accelbench_assets.cli.target import (
    ALLOWANCE_S,
    Flags,
    Target,
    check_this_machine,
    request_document,
)
from accelbench_assets.cli.target_load import check_context, check_deadline
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from loadgen.workloads import Workload
    from partitions.cell import BenchmarkCell

DEFAULT_ENGINE = "llamacpp"


def local_target(flags: Flags, workload: Workload, home: Path, *, prepare: bool) -> Target:
    """The target of a local engine. With *prepare*, vLLM's own environment is made when it is missing.

    Raises ``UsageError`` naming the flag, ``LaunchError`` when a part is not installed.
    """
    from accelbench_assets.engines.registry import ENGINES, local_target
    from accelbench_assets.engines.weights import DEMO_MODEL
    from partitions.cell import BenchmarkCell, CellError, Deployment

    instance = check_this_machine(flags.instance)
    name = flags.engine or DEFAULT_ENGINE
    if name not in ENGINES:
        raise UsageError(f"--engine: {name!r} is unknown here. {near(name, list(ENGINES))}")
    if flags.tp != 1:
        raise UsageError(f"--tp {flags.tp}: this machine has no accelerators to split a model over.")
    model = flags.model or DEMO_MODEL
    _check_weights(name, model, home, prepare=prepare)
    found = local_target(name, model, home)
    if flags.engine_version not in (None, found.engine_version):
        have = f"{found.engine_version} of {name} is installed"
        raise UsageError(f"--engine-version: {flags.engine_version} was asked for, {have}.")
    if flags.quantization not in (None, found.quantization):
        raise UsageError(
            f"--quantization: the files of {model} here are {found.quantization}, not {flags.quantization}."
        )
    threads = STATE.settings.llamacpp_threads
    try:
        deployment = Deployment(
            replicas=flags.replicas,
            dtype=found.dtype,
            quantization=found.quantization,
            max_model_len=flags.max_model_len,
            # More threads give other figures, so they are part of the cell; one is the engine's default here.
            args=(("threads", str(threads)),) if name == "llamacpp" and threads != 1 else (),
        )
        cell = BenchmarkCell(
            model, found.revision, instance, name, found.engine_version, deployment, workload.id
        )
    except CellError as error:
        raise UsageError(f"--{error.field.replace('_', '-')}: {str(error).partition(': ')[2]}.") from None
    return _target(flags, cell, workload)


def local_cell_target(flags: Flags, cell: BenchmarkCell, workload: Workload, *, prepare: bool) -> Target:
    """The target of a registered *cell* of this machine. Raises ``UsageError`` naming ``--instance``."""
    check_this_machine(cell.instance)
    if cell.engine == "vllm" and prepare:
        prepare_vllm(STATE.settings.home)
    return _target(flags, cell, workload)


def _target(flags: Flags, cell: BenchmarkCell, workload: Workload) -> Target:
    from accelbench_assets.engines.llamacpp import DEFAULT_CONTEXT
    from partitions.catalog import load_models

    default = DEFAULT_CONTEXT if cell.engine == "llamacpp" else None  # others serve what the model allows
    check_context(flags, workload, cell.deployment.max_model_len or default)
    known = load_models().get(cell.model)
    request = request_document(
        flags,
        cell,
        workload,
        model_id=known.model_id if known else cell.model,
        deadline_s=check_deadline(flags, workload, ALLOWANCE_S.get(cell.engine, 120.0)),
        # The setting is this machine's price, nobody else's.
        more={"usd_per_hour": flags.usd_per_hour or STATE.settings.usd_per_hour},
    )
    return Target(cell, workload, request)


def _check_weights(engine: str, model: str, home: Path, *, prepare: bool) -> None:
    """Refuse a model whose files are not here, naming the flag; for vLLM, make what the demo model needs
    first.
    """
    from accelbench_assets.engines.registry import ENGINES
    from accelbench_assets.engines.weights import DEMO_MODEL, gguf_files, safetensors_folders
    from accelbench_assets.errors import LaunchError
    from partitions.catalog import load_models

    if engine == "vllm" and prepare and model == DEMO_MODEL:
        prepare_vllm(home)
    try:
        ENGINES[engine].weights(model, home)
    except LaunchError as error:
        if error.code != "model_not_found":
            raise
        known = load_models()
        here = sorted((gguf_files if engine == "llamacpp" else safetensors_folders)(home))
        known_names = near(model, list(dict.fromkeys([*here, *known])))
        if here and "Did you mean" not in known_names:
            known_names = f"On this machine: {', '.join(here)}. {known_names}"
        text = f"its weights are not on this machine. {error.message}" if model in known else known_names
        what = f"--model {model}:" if model in known else f"--model: {model!r} is unknown."
        raise LaunchError(f"{what} {text}", code=error.code, hint=error.hint) from None


def prepare_vllm(home: Path) -> None:
    """Make vLLM's environment when it is missing, telling what is going on (minutes the first time)."""
    if os.environ.get("ACCELBENCH_VLLM_PYTHON"):
        return  # the user keeps one of their own
    from accelbench_assets.cli.progress import ProgressView
    from accelbench_assets.engines.vllm_env import ensure_vllm_env

    with ProgressView(()) as view:

        def on_event(kind: str, message: str, data: Mapping[str, Any]) -> None:
            view.event("phase" if kind == "log" and not view.plain else kind, message, data)

        ensure_vllm_env(home.parent, on_event, home=home)
