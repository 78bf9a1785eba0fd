"""A cell's deployment in the words of the sizer: precision, scheduler limits, KV cache, or why it is not sized.

Belongs here: what ``Deployment`` and its free arguments mean for memory, and whether exactly this one can start. Does
not belong here: how an engine is told (``engines``), the arithmetic (``weights``, ``engine_memory``), speed
(``cells``).

Free arguments that are neither counted here nor known to change nothing stop the estimate: a figure that leaves out
what the server was told is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from accelbench_assets.errors import LaunchError, UsageError
from accelbench_assets.sizing import loading, neuron
from accelbench_assets.sizing.divisibility import undividable, warnings
from accelbench_assets.sizing.engine_memory import UTILIZATION, Batching, Pool, batching, pool
from accelbench_assets.sizing.fit import ENGINE, memory_text
from accelbench_assets.sizing.weights import Weights, weights_of
from partitions.catalog import load_instances, load_models
from partitions.cell import BenchmarkCell
from partitions.rows import GIB, InstanceRow, ModelRow

SHARE, SEQUENCES, TOKENS = "gpu-memory-utilization", "max-num-seqs", "max-num-batched-tokens"
NEUTRAL = frozenset(
    {
        *("seed", "trust-remote-code", "generation-config", "chat-template", "load-format", "download-dir"),
        *("disable-log-requests", "disable-log-stats", "no-enable-log-requests", "enable-log-requests"),
        *("uvicorn-log-level", "disable-uvicorn-access-log", "tokenizer-mode"),
    }
)
"""Arguments of vLLM's server that change neither memory nor steps."""


class Unsized(Exception):
    """There is no estimate; the text says why. ``state`` is ``does_not_fit`` or ``unknown``."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state = state


@dataclass(frozen=True, slots=True)
class Served:
    """One replica of a cell as it starts: its rows of the catalogs, weights, scheduler limits and KV cache; *notes* are
    sentences to be told with any figure.
    """

    model: ModelRow
    instance: InstanceRow
    weights: Weights
    limits: Batching
    pool: Pool
    notes: tuple[str, ...]


def _arguments(cell: BenchmarkCell) -> dict[str, str]:
    return {name.replace("_", "-").lower(): value for name, value in cell.deployment.args}


def utilization_of(cell: BenchmarkCell) -> float:
    """The share of a device's memory that the engine takes. Raises ``Unsized`` for one that is none."""
    text = _arguments(cell).get(SHARE)
    if text is None:
        return UTILIZATION
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise Unsized("unknown", f"--{SHARE} {text} is not a share of the memory")
    return share


def batching_of(cell: BenchmarkCell, instance: InstanceRow) -> Batching:
    """The scheduler's limits: the engine's for this accelerator, or as the cell sets them. Raises ``Unsized``."""
    told = _arguments(cell)
    if uncounted := sorted(told.keys() - NEUTRAL - {SHARE, SEQUENCES, TOKENS}):
        raise Unsized("unknown", f"what --{uncounted[0]} changes is not counted")
    limits = batching(instance.accelerator)
    for name, field in ((SEQUENCES, "sequences"), (TOKENS, "tokens")):
        if (text := told.get(name)) is None:
            continue
        if not text.isdecimal() or int(text) < 1:
            raise Unsized("unknown", f"--{name} {text} is not a whole number of at least 1")
        limits = replace(limits, **{field: int(text)})
    return limits


def weights_of_cell(cell: BenchmarkCell, model: ModelRow, instance: InstanceRow) -> Weights:
    """The weights as the cell serves them. Raises ``Unsized`` where no engine would start, or bytes are not known."""
    wanted, held, chip = cell.deployment.quantization, model.quantization, instance.accelerator
    neuron_build = "-neuron" in cell.engine_version
    if chip.kind == "neuron":
        try:
            reason = neuron.not_served(chip, cell.engine_version)
        except LaunchError as error:
            reason = error.message.rstrip(".")
        if reason:
            raise Unsized("unknown", reason)
    elif neuron_build:
        raise Unsized(
            "unknown", f"{cell.engine} {cell.engine_version} is a build for Neuron, not for {chip.id}"
        )
    if held != "none" and wanted != held:
        raise Unsized(
            "unknown", f"the checkpoint is {held}, and the cell says {wanted}: no engine starts on that"
        )
    if chip.kind == "gpu" and wanted != held and (reason := loading.not_made(wanted, model, chip)):
        raise Unsized("unknown", reason)
    if cell.deployment.dtype == "fp32":
        raise Unsized("unknown", "serving in fp32 is not sized")
    try:
        return weights_of(model, None if wanted == held else wanted)
    except UsageError as error:
        raise Unsized("unknown", error.message.rstrip(".")) from None


def _rows(cell: BenchmarkCell) -> tuple[ModelRow, InstanceRow]:
    instance, model = load_instances().get(cell.instance), load_models().get(cell.model)
    if instance is None:
        raise Unsized("unknown", f"{cell.instance} is not in the catalog of instance types")
    if model is None:
        raise Unsized("unknown", f"{cell.model} is not in the catalog of models")
    if cell.engine != ENGINE:
        raise Unsized(
            "unknown", f"the memory and the steps of {cell.engine} are not known here, only {ENGINE}'s"
        )
    return model, instance


def served(cell: BenchmarkCell) -> Served:
    """One replica of *cell* and its KV cache. Raises ``Unsized``: it cannot start, or that cannot be told."""
    model, instance = _rows(cell)
    weights, limits = weights_of_cell(cell, model, instance), batching_of(cell, instance)
    notes = warnings(model, instance, weights, cell.deployment.tp)
    deployed = cell.deployment
    context = deployed.max_model_len or model.max_position_embeddings
    ranks = deployed.tp * deployed.pp * deployed.dp
    if ranks > instance.tp_ranks:
        raise Unsized("does_not_fit", f"a replica needs {ranks} ranks, the instance has {instance.tp_ranks}")
    if reason := undividable(model, instance, weights, deployed.tp, context):
        raise Unsized("does_not_fit", f"tp {deployed.tp}: {reason}")
    if ranks > deployed.tp or deployed.ep > 1:
        raise Unsized(
            "unknown", "pipeline, data and expert parallelism are not sized, only tensor parallelism"
        )
    share = utilization_of(cell)
    try:
        held = pool(
            model,
            instance.accelerator,
            weights,
            tp=deployed.tp,
            max_model_len=context,
            kv_dtype=deployed.kv_cache_dtype,
            utilization=share,
            limits=limits,
        )
    except UsageError as error:
        raise Unsized("unknown", error.message.rstrip(".")) from None
    low, middle, high = held.non_kv.low, held.non_kv.middle, held.non_kv.high
    if not held.holds_one:
        if not held.holds_one_beside(low):
            text = memory_text(held, deployed.tp, weights, low)
            raise Unsized("does_not_fit", f"{text}; the engine is counted at its least")
        text = memory_text(held, deployed.tp, weights, middle)
        raise Unsized(
            "unknown", f"it is on the edge: {text}; with {low / GIB:.2f} for the engine it would start"
        )
    if not held.holds_one_beside(high):
        notes += (f"It does not start if the engine takes {high / GIB:.2f} GiB beside weights and cache.",)
    return Served(model, instance, weights, limits, held, notes)
