"""From a suite to cells: expansion, the screening of what cannot fit, and what is new.

Belongs here: ``expand``, ``explain``, ``why_not``, ``new_cells``; all pure. Does not belong here: sizing
advice with numbers of concurrency (the recommender), adding partitions to the orchestrator, launching.

Tokens. A suite may name things that only the caller can know; ``resolve`` maps them: ``local`` -> this
machine's instance (``local-1a2b3c4d``); ``engine:<name>`` -> the installed version, where a row says
``engine_version: installed``; ``revision:<slug>`` -> a pinned revision that replaces the one of
``models.yaml``.

Screening rule, per rank and deliberately simple: ``weights / (tp x pp) + engine + KV cache of one sequence of
max_model_len <= memory of one rank``, in the deployment's precision. ``engine`` stands for runtime context,
graphs and activations: 20 % of the weights, at most the 8 % of memory that vLLM leaves alone unless told
otherwise, so that nothing is screened out that the recommender finds to serve. It says "cannot start", never
"runs well".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from partitions.catalog import load_instances, load_models
from partitions.cell import OWN_FAMILIES, BenchmarkCell, CellError, Deployment, families
from partitions.rows import GIB, InstanceRow, ModelRow, Suite, SuiteRow
from partitions.weights import served_bytes

ENGINE_SHARE, MOST_OF_MEMORY = 0.2, 0.08
INSTALLED = "installed"


class Explained(NamedTuple):
    """One combination of a suite: its cell, or None and why it was left out. ``reason`` names the
    combination.
    """

    cell: BenchmarkCell | None
    reason: str


class _Unresolved(CellError):
    """A token of the suite that the caller did not resolve."""


def weight_bytes(model: ModelRow, deployment: Deployment) -> int:
    """Bytes of weights over all ranks of one replica, in the deployment's quantization."""
    return served_bytes(model, deployment.quantization)


def kv_bytes_per_rank(model: ModelRow, deployment: Deployment, tokens: int) -> float:
    """KV cache bytes one rank holds for one sequence: heads are shared out until each rank has one, MLA is
    replicated.
    """
    share = model.kv_heads_per_rank(deployment.tp) / model.kv_heads
    width = 0.5 if deployment.kv_cache_dtype.startswith("fp8") else 1.0
    return model.kv_bytes(tokens) * width * share / deployment.pp


def why_not(model: ModelRow, instance: InstanceRow, deployment: Deployment) -> str | None:
    """Why this deployment cannot start on this instance; None if the simple rules allow it."""
    tp = deployment.tp
    ranks = tp * deployment.pp * deployment.dp  # every replica has an instance of its own
    if ranks > instance.tp_ranks:
        return f"needs {ranks} ranks, the instance has {instance.tp_ranks}"
    tokens = deployment.max_model_len or model.max_position_embeddings
    if tokens > model.max_position_embeddings:
        return f"max_model_len {tokens} is beyond the model's {model.max_position_embeddings} positions"
    if instance.accelerator_kind == "gpu":  # Neuron's library pads heads instead
        if model.attention_heads % tp:
            return f"{model.attention_heads} attention heads do not divide by tp {tp}"
        if model.kv_heads % tp and tp % model.kv_heads:
            return f"{model.kv_heads} KV heads neither divide by tp {tp} nor divide it"
        if model.intermediate_size % tp:
            return f"the feed-forward width {model.intermediate_size} does not divide by tp {tp}"
    have = instance.memory_bytes_per_rank
    weights = weight_bytes(model, deployment) / (tp * deployment.pp)
    engine = min(ENGINE_SHARE * weights, MOST_OF_MEMORY * have)
    cache = kv_bytes_per_rank(model, deployment, tokens)
    need = weights + engine + cache
    if need > have:
        parts = (
            f"weights {weights / GIB:.1f}, engine {engine / GIB:.1f}, KV of {tokens} tokens {cache / GIB:.1f}"
        )
        return f"needs {need / GIB:.1f} GiB a rank ({parts}), has {have / GIB:.1f}"
    return None


class _Combination(NamedTuple):
    row: SuiteRow
    model: ModelRow
    instance: str
    tp: int
    workload: str

    def __str__(self) -> str:
        return f"{self.model.slug} on {self.instance}, tp {self.tp}, {self.workload}"


def _combinations(suite: Suite) -> Iterator[_Combination]:
    models = load_models()
    for row in suite.rows:
        for slug, (instance, tps) in product(row.models, row.instances):
            for tp, workload in product(tps, row.workloads):
                yield _Combination(row, models[slug], instance, tp, workload)


def _cell(of: _Combination, resolve: Mapping[str, str]) -> BenchmarkCell:
    instance = resolve.get(of.instance, of.instance)
    if instance in OWN_FAMILIES:
        raise _Unresolved("instance", f"{instance!r} is not resolved; give resolve[{instance!r}]")
    version = of.row.engine_version
    if version == INSTALLED:
        token = f"engine:{of.row.engine}"
        if token not in resolve:
            raise _Unresolved("engine_version", f"{version!r} is not resolved; give resolve[{token!r}]")
        version = resolve[token]
    revision = resolve.get(f"revision:{of.model.slug}", of.model.revision)
    deployment = replace(of.row.deployment, tp=of.tp)
    return BenchmarkCell(of.model.slug, revision, instance, of.row.engine, version, deployment, of.workload)


def _walk(suite: Suite, resolve: Mapping[str, str], strict: bool) -> Iterator[Explained]:
    seen: set[str] = set()
    for of in _combinations(suite):
        try:
            cell = _cell(of, resolve)
        except _Unresolved as error:
            if strict:
                raise
            yield Explained(None, f"{of}: {error}")
            continue
        instance = load_instances().get(cell.instance)
        reason = why_not(of.model, instance, cell.deployment) if instance else None
        if reason is None and cell.key_text in seen:
            reason = "the same cell as an earlier row"
        if reason is not None:
            yield Explained(None, f"{of}: {reason}")
            continue
        seen.add(cell.key_text)
        yield Explained(cell, f"{of}: {'fits' if instance else 'not screened, the instance has no row'}")


def expand(suite: Suite, *, resolve: Mapping[str, str] | None = None) -> tuple[BenchmarkCell, ...]:
    """The cells of a suite that can fit, in file order, each once.

    Raises ``CellError`` for a token that *resolve* does not have, or a value of the suite that makes no cell.
    """
    return tuple(e.cell for e in _walk(suite, resolve or {}, strict=True) if e.cell is not None)


def explain(suite: Suite, *, resolve: Mapping[str, str] | None = None) -> tuple[Explained, ...]:
    """Every combination of a suite, in file order: its cell, or None with what keeps it out (unresolved
    tokens too).
    """
    return tuple(_walk(suite, resolve or {}, strict=False))


def new_cells(
    cells: Iterable[BenchmarkCell], existing_keys_by_family: Mapping[str, Collection[str]]
) -> dict[str, list[str]]:
    """Keys not yet known, by family: families in stable order, keys in the order given, each once, no empty
    family.
    """
    found: dict[str, dict[str, None]] = {family: {} for family in families()}
    for cell in cells:
        if cell.key_text not in existing_keys_by_family.get(cell.family, ()):
            found[cell.family][cell.key_text] = None
    return {family: list(keys) for family, keys in found.items() if keys}
