"""Time of a prefill and of a decode step from FLOPS, bytes and links.

Belongs here: the formulas, for any efficiency. Does not belong here: which efficiency (``priors``), intervals
(``estimate``), what no engine can beat (``bounds``), what fits (``fit``). Seconds, bytes, FLOP per second throughout;
pure.

A prefill does ``2 P N + 2 L H d N^2`` FLOP (causal half taken; windows cap the square), a decode step of B sequences
reads the weights it draws and ``B`` caches. Either is bound by compute or by reading. Tensor parallelism adds two
all-reduces a layer. Where a link's rate is not published its time is not counted, and the estimate says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelbench_assets.sizing import kv
from accelbench_assets.sizing.priors import LATENCY_BASE_S, LATENCY_HOP_S
from accelbench_assets.sizing.weights import Weights
from partitions.rows import AcceleratorRow, ModelRow

ACTIVATION_BYTES = 2
MLA_PREFILL_HEAD = 160
"""Mean of MLA's query-key width (192) and value width (128): its prefill multiplies these, not the cached latent."""

NARROW_TIMES = ((4, 6.0), (8, 2.0))
"""How many times the 16-bit rate any NVIDIA chip of the catalog multiplies operands of 4 bits (FP4 of B300) and of 8
(INT8, FP8), at most: dense peaks of the data sheets."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the peaks and what a step waits for; 1, 1, 0 and no links is the roofline itself."""

    mfu: float = 1.0
    mbu: float = 1.0
    host_s: float = 0.0
    links: bool = False


IDEAL = Efficiency()


@dataclass(frozen=True, slots=True)
class Replica:
    """One model on *tp* ranks of an accelerator. ``flops`` null = the chip's rate is not published; ``most_flops`` is
    the rate of products on operands as narrow as the weights, should an engine narrow its activations too.
    """

    model: ModelRow
    weights: Weights
    tp: int
    kv_dtype: str
    flops: float | None
    most_flops: float | None
    bandwidth: float
    link: float | None
    hop_s: float | None

    @property
    def links_known(self) -> bool:
        """Whether the time of all-reduces can be counted."""
        return self.tp == 1 or (self.link is not None and self.hop_s is not None)


def replica(
    model: ModelRow, weights: Weights, chip: AcceleratorRow, tp: int, kv_dtype: str = "auto"
) -> Replica | None:
    """The replica's rates; None where the chip's bandwidth is not published.

    Products run at the FP8 rate only where weights are FP8 and the chip has the units; all other low precisions are
    widened to 16 bits before they are multiplied.
    """
    if chip.memory_bandwidth_gb_s is None:
        return None
    tflops = chip.fp8_tflops if multiplies_fp8(weights, chip) else chip.bf16_tflops
    fastest = most_tflops(weights, chip)
    share = tp / chip.tp_ranks
    pcie = chip.interconnect.lower().startswith("pcie")
    return Replica(
        model=model,
        weights=weights,
        tp=tp,
        kv_dtype=kv_dtype,
        flops=None if tflops is None else tflops * 1e12 * share,
        most_flops=None if fastest is None else fastest * 1e12 * share,
        bandwidth=chip.memory_bandwidth_gb_s * 1e9 * share,
        link=None if chip.link_gb_s is None else chip.link_gb_s * 1e9,
        hop_s=None if chip.kind != "gpu" else LATENCY_HOP_S["pcie" if pcie else "nvlink"],
    )


def multiplies_fp8(weights: Weights, chip: AcceleratorRow) -> bool:
    """Whether products run in FP8 here."""
    return weights.precision in ("fp8", "fp8_block") and chip.fp8_tflops is not None and chip.kind == "gpu"


def most_tflops(weights: Weights, chip: AcceleratorRow) -> float | None:
    """The highest rate of products on operands of the weights' bits; None where the 16-bit one is not published."""
    if chip.bf16_tflops is None:
        return None
    times = next((times for bits, times in NARROW_TIMES if weights.bits < bits + 1), 1.0)
    widest = times * chip.bf16_tflops
    return max(widest, chip.fp8_tflops or 0.0) if times > 1 else widest


def prefill_flop(model: ModelRow, weights: Weights, tokens: float) -> float:
    """FLOP of a prompt of *tokens*."""
    head = MLA_PREFILL_HEAD if model.attention_kind == "mla" else model.head_dim
    full = model.full_layers
    window = min(tokens, 2.0 * (model.sliding_window or 0))  # a window w makes 4 w N of what is 2 N^2 in full
    squares = full * tokens * tokens + (model.layers - full) * window * tokens
    return 2 * weights.read_parameters * tokens + 2 * model.attention_heads * head * squares


def links_s(one: Replica, tokens: float) -> float:
    """Seconds of a step's all-reduces, two a layer of ``2 (TP-1)/TP`` of the activations each; 0 if unknown."""
    if one.tp == 1 or one.link is None or one.hop_s is None:
        return 0.0
    size = tokens * one.model.hidden_size * ACTIVATION_BYTES
    each = 2 * (one.tp - 1) / one.tp * size / one.link + LATENCY_BASE_S + 2 * (one.tp - 1) * one.hop_s
    return 2 * one.model.layers * each


def prefill_s(one: Replica, tokens: float, at: Efficiency = IDEAL) -> float | None:
    """Seconds to prefill one prompt of *tokens*; None where the FLOPS are not published."""
    if one.flops is None:
        return None
    compute = prefill_flop(one.model, one.weights, tokens) / (one.flops * at.mfu)
    reading = one.weights.read_bytes(tokens) / (one.bandwidth * at.mbu)
    return max(compute, reading) + (links_s(one, tokens) if at.links else 0.0)


def step_s(one: Replica, batch: float, context: float, at: Efficiency = IDEAL) -> float:
    """Seconds of a decode step of *batch* sequences that are *context* tokens long on average."""
    read = one.weights.read_bytes(batch) + batch * kv.bytes_read(one.model, context, one.tp, one.kv_dtype)
    found = read / (one.bandwidth * at.mbu)
    if one.flops is not None:
        found = max(found, 2 * one.weights.read_parameters * batch / (one.flops * at.mfu))
    return found + at.host_s + (links_s(one, batch) if at.links else 0.0)


def mixed_prefill_s(one: Replica, tokens: float, at: Efficiency = IDEAL) -> float | None:
    """Seconds that a prompt of *tokens* adds to an engine that is busy decoding: its products and its links.

    Its tokens share steps with other sequences, so the weights are read once for all and counted with the decode.
    """
    if one.flops is None:
        return None
    compute = prefill_flop(one.model, one.weights, tokens) / (one.flops * at.mfu)
    return compute + (links_s(one, tokens) if at.links else 0.0)
