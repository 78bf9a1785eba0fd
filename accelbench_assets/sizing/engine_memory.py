"""vLLM's own accounting of a device's memory: what it asks for, what is not KV cache, how many blocks are left.

Belongs here: ``ceil(total x utilisation)``, the bound on everything that is neither weights nor KV cache, blocks,
tokens, defaults by device memory. Does not belong here: weights and KV arithmetic (``weights``, ``kv``).

The non-KV part on accelerators is a bound from the methodology and UNVERIFIED: no GPU was measured by this project.
Blocks and bytes per token are exact against the real engine (``tests/sizing``), given the pool's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from accelbench_assets.sizing import kv
from accelbench_assets.sizing.weights import Weights, bytes_per_rank
from partitions.rows import GIB, AcceleratorRow, ModelRow

UTILIZATION = 0.92
"""vLLM's default share of a device since 0.32 at the latest; earlier releases took 0.90."""

CONTEXT_GIB = (0.5, 0.65, 0.8)
GRAPHS_GIB = (0.3, 0.9, 1.5)
COLLECTIVES_GIB = (0.2, 0.3, 0.4)
"""(least, middle, most) a device: CUDA context, captured graphs, communication buffers where there are several."""
NEURON_GIB = (0.5, 1.0, 2.0)
"""A core's runtime and compiled code. Nothing published was found: an assumption."""

LARGE_GIB, MIDDLE_GIB = 160, 70


@dataclass(frozen=True, slots=True)
class Batching:
    """Scheduler limits of a server: tokens in a step, sequences at once, and steps that overlap."""

    tokens: int
    sequences: int
    overlapping: int = 2

    @property
    def in_flight(self) -> int:
        """Tokens scheduled and not settled at once: what sliding windows keep beside themselves."""
        return self.tokens * self.overlapping


@dataclass(frozen=True, slots=True)
class NonKv:
    """Bytes of one device that are neither weights nor KV cache: a middle figure and its bounds."""

    low: int
    middle: int
    high: int


@dataclass(frozen=True, slots=True)
class Pool:
    """The KV cache of one rank (all ranks are alike). Bytes; ``tokens`` is what vLLM prints as its KV cache size.

    ``blocks`` is 0 and ``pool_bytes`` negative where not even the weights fit.
    """

    device_bytes: int
    requested_bytes: int
    weight_bytes: int
    non_kv: NonKv
    pool_bytes: int
    block_bytes: int
    block_tokens: int
    blocks: int
    max_model_len: int
    blocks_per_request: int

    @property
    def max_concurrency(self) -> float:
        """Requests of ``max_model_len`` tokens that the pool holds."""
        return self.blocks / self.blocks_per_request

    @property
    def tokens(self) -> int:
        """vLLM's "KV cache size": whole tokens of requests that are as long as allowed."""
        return int(self.max_concurrency * self.max_model_len)

    @property
    def holds_one(self) -> bool:
        """Whether the engine starts: one request of ``max_model_len`` fits."""
        return self.blocks >= self.blocks_per_request

    def blocks_beside(self, engine_bytes: int) -> int:
        """Blocks that are left where the engine takes *engine_bytes* beside weights and cache."""
        return max(0, self.requested_bytes - self.weight_bytes - engine_bytes) // self.block_bytes

    def holds_one_beside(self, engine_bytes: int) -> bool:
        """Whether the engine starts where it takes *engine_bytes* beside weights and cache."""
        return self.blocks_beside(engine_bytes) >= self.blocks_per_request


def batching(chip: AcceleratorRow) -> Batching:
    """vLLM's defaults for its OpenAI server by device memory.

    Neuron compiles its batch: there the figure is where this module begins, and the batch found is what to compile.
    """
    gib = chip.memory_mib / 1024
    if chip.kind == "neuron":
        return Batching(2048, 256, 1)
    if gib >= LARGE_GIB:
        return Batching(16384, 1024)
    if gib >= MIDDLE_GIB and "a100" not in chip.name:
        return Batching(8192, 1024)
    return Batching(2048, 256)


def activations(model: ModelRow, tp: int, limits: Batching) -> int:
    """A bound on the peak of a step: ``T b (4 h + 3 h_ff / TP) + min(T, S) V / TP x 4`` bytes, b = 2.

    ``h_ff`` is the width a token passes: of all experts it is sent to.
    """
    width = model.intermediate_size * (model.experts_per_token or 1)
    step = limits.tokens * 2 * (4 * model.hidden_size + 3 * width / tp)
    return round(step + min(limits.tokens, limits.sequences) * model.vocab_size / tp * 4)


def non_kv(model: ModelRow, chip: AcceleratorRow, tp: int, limits: Batching) -> NonKv:
    """What a rank holds beside weights and KV cache, with bounds. Unverified on every accelerator."""
    parts = [CONTEXT_GIB, GRAPHS_GIB, *([COLLECTIVES_GIB] if tp > 1 else [])]
    if chip.kind == "neuron":
        parts = [NEURON_GIB]
    step = activations(model, tp, limits)
    low, middle, high = (round(sum(part[i] for part in parts) * GIB) + step for i in range(3))
    return NonKv(low, middle, high)


def pool(
    model: ModelRow,
    chip: AcceleratorRow,
    weights: Weights,
    *,
    tp: int = 1,
    max_model_len: int,
    kv_dtype: str = "auto",
    utilization: float = UTILIZATION,
    limits: Batching | None = None,
    beside: NonKv | None = None,
    block_tokens: int = kv.BLOCK_TOKENS,
) -> Pool:
    """The KV cache of one of *tp* ranks; *beside* replaces the bound on what is neither weights nor KV cache."""
    limits = limits or batching(chip)
    device = chip.memory_bytes_per_rank
    requested = math.ceil(device * utilization)
    resident = bytes_per_rank(model, weights, tp)
    other = beside or non_kv(model, chip, tp, limits)
    return pool_of(
        model,
        requested - resident - other.middle,
        tp=tp,
        max_model_len=max_model_len,
        kv_dtype=kv_dtype,
        in_flight=limits.in_flight,
        block_tokens=block_tokens,
        device=device,
        requested=requested,
        resident=resident,
        other=other,
    )


def pool_of(
    model: ModelRow,
    pool_bytes: int,
    *,
    tp: int = 1,
    max_model_len: int,
    kv_dtype: str = "auto",
    in_flight: int = 0,
    block_tokens: int = kv.BLOCK_TOKENS,
    device: int = 0,
    requested: int = 0,
    resident: int = 0,
    other: NonKv | None = None,
) -> Pool:
    """The blocks of a pool whose bytes are known, as vLLM counts them."""
    block = kv.block_bytes(model, tp, kv_dtype, block_tokens)
    return Pool(
        device_bytes=device,
        requested_bytes=requested,
        weight_bytes=resident,
        non_kv=other or NonKv(0, 0, 0),
        pool_bytes=pool_bytes,
        block_bytes=block,
        block_tokens=block_tokens,
        blocks=max(0, pool_bytes) // block,
        max_model_len=max_model_len,
        blocks_per_request=kv.blocks_per_sequence(
            model, max_model_len, in_flight=in_flight, block_tokens=block_tokens
        ),
    )
