"""The row types of the YAML catalogs, and what follows from one row alone.

Belongs here: ``ModelRow``, ``AcceleratorRow``, ``InstanceRow``, ``Suite`` and their derived sizes. Import
them from ``catalog``.
Does not belong here: reading and checking files (``catalog``), anything that needs two rows (``matrix``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from partitions.deployment import Deployment

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model as served. Counts are whole numbers, ``weight_bytes`` those of the checkpoint as it is
    served.

    ``revision`` is the cell's form (7 hex of ``commit``, or ``unpinned``: to be resolved before any launch);
    ``full_attention_layers`` null means all layers; ``intermediate_size`` is that of one expert where there
    are experts. ``gated`` null = not verified. For MLA, ``kv_heads`` is 1 and ``head_dim`` the latent plus
    the rotary width.

    ``speculative_bytes`` of the checkpoint are layers that predict further tokens: no engine loads them unless
    it decodes speculatively, and ``parameters`` leaves them out. ``tower_parameters`` of the parameters read
    images: loaded, and neither read nor multiplied with when text is decoded.
    """

    slug: str
    model_id: str
    revision: str
    commit: str | None
    architecture: str
    parameters: int
    active_parameters: int
    layers: int
    full_attention_layers: int | None
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    attention_kind: str
    sliding_window: int | None
    experts: int | None
    experts_per_token: int | None
    vocab_size: int
    max_position_embeddings: int
    dtype: str
    quantization: str
    weight_bytes: int
    weights_are: str
    gated: bool | None
    license: str
    source: str
    note: str = ""
    speculative_bytes: int = 0
    tower_parameters: int = 0

    @property
    def weight_gib(self) -> float:
        """Checkpoint size in GiB."""
        return self.weight_bytes / GIB

    @property
    def resident_bytes(self) -> int:
        """Bytes of the checkpoint that an engine loads when it does not decode speculatively."""
        return self.weight_bytes - self.speculative_bytes

    def kv_heads_per_rank(self, tp: int) -> int:
        """KV heads that each of *tp* ranks keeps; 1 for MLA, whose latent vector is whole on every rank.

        They are shared out, or repeated until each rank has one. Where neither divides the other (no GPU engine
        starts so) Neuron's library keeps one for every attention head, padded to a multiple of *tp*.
        """
        if self.kv_heads % tp == 0:
            return self.kv_heads // tp
        if tp % self.kv_heads == 0:
            return 1
        return math.ceil(self.attention_heads / tp)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache that one more token of a long sequence costs at 16 bits, all ranks of TP 1.

        Sliding-window layers stop growing and are not counted; MLA keeps one latent vector and no separate V.
        """
        return 2 * self.full_layers * self.kv_values()

    @property
    def full_layers(self) -> int:
        """Layers that attend to everything."""
        return self.layers if self.full_attention_layers is None else self.full_attention_layers

    def kv_values(self, tp: int = 1) -> int:
        """Values that one token keeps in one layer on each of *tp* ranks: K and V of its heads, or MLA's one vector."""
        return self.kv_heads_per_rank(tp) * self.head_dim * (1 if self.attention_kind == "mla" else 2)

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of KV cache (16 bits, TP 1) of one sequence of *tokens* tokens; sliding layers hold their
        window at most.
        """
        held = min(tokens, self.sliding_window) if self.sliding_window else tokens
        windows = (self.layers - self.full_layers) * held
        return 2 * self.kv_values() * (self.full_layers * tokens + windows)


@dataclass(frozen=True, slots=True)
class AcceleratorRow:
    """One accelerator. Rates are dense peaks of one device; null = not published. ``tp_ranks`` is what one
    device gives to tensor parallelism: 1 for a GPU, its logical NeuronCores for a Neuron chip.
    ``compute_capability`` is CUDA's: null for Neuron, and where it is not known.
    """

    id: str
    kind: str
    vendor: str
    name: str
    memory_mib: int
    memory_bandwidth_gb_s: float | None
    bf16_tflops: float | None
    fp8_tflops: float | None
    compute_capability: float | None
    neuron_cores: int | None
    tp_ranks: int
    interconnect: str
    link_gb_s: float | None
    source: str
    confidence: str
    note: str = ""

    @property
    def memory_bytes_per_rank(self) -> int:
        """Bytes of memory that each of its ranks has."""
        return self.memory_mib * 1024**2 // self.tp_ranks


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One EC2 instance type with its accelerator's facts. Memory in MiB, network in Gbit/s sustained, disk in
    GB.
    """

    instance_type: str
    family: str
    accelerator: AcceleratorRow
    accelerator_count: int
    vcpu: int
    memory_mib: int
    network_gbps: float
    efa_interfaces: int
    local_nvme_gb: int
    note: str = ""

    @property
    def accelerator_kind(self) -> str:
        """``gpu`` or ``neuron``."""
        return self.accelerator.kind

    @property
    def accelerator_name(self) -> str:
        """The name the EC2 API uses."""
        return self.accelerator.name

    @property
    def accelerator_memory_mib_each(self) -> int:
        """MiB of one device."""
        return self.accelerator.memory_mib

    @property
    def tp_ranks(self) -> int:
        """Ranks of tensor parallelism the instance can hold: devices, or logical NeuronCores."""
        return self.accelerator_count * self.accelerator.tp_ranks

    @property
    def memory_bytes_per_rank(self) -> int:
        """Bytes of accelerator memory one rank has."""
        return self.accelerator.memory_bytes_per_rank


@dataclass(frozen=True, slots=True)
class SuiteRow:
    """A block of a suite: every model on every (instance, tp) for every workload, with one deployment but for
    tp.
    """

    models: tuple[str, ...]
    instances: tuple[tuple[str, tuple[int, ...]], ...]
    engine: str
    engine_version: str
    deployment: Deployment
    workloads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of cells to measure, in blocks."""

    name: str
    description: str
    rows: tuple[SuiteRow, ...]


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """What a file says of itself: the day its facts are of and its sources by short name."""

    as_of: str
    sources: Mapping[str, str]
