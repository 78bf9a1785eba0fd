"""Bytes of a checkpoint's weights, from the best source there is: headers and indexes, never a download.

Belongs here: reading a safetensors header, an index, a list of files. Does not belong here: asking for them (``hub``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelbench_assets.models.fields import plain_count

INDEX_FILE, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"
HEADER_LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
DTYPE_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1, "F4": 0.5, "F6_E2M3": 0.75},
}
_PLAIN = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


@dataclass(frozen=True, slots=True)
class Weights:
    """``bytes`` of the tensors, null where no safetensors are found; ``how``: ``index`` (total_size of the index),
    ``header`` (of the only file), ``parameters`` (the hub's count by type), ``file`` (sizes of the files, headers
    included), ``none``. ``parameters`` counts elements and is null for packed formats.
    """

    bytes: int | None
    how: str
    parameters: int | None = None
    dtypes: tuple[tuple[str, int], ...] = ()

    @property
    def dtype(self) -> str | None:
        """The plain type that most parameters have: what is not quantised."""
        plain = [one for one in self.dtypes if one[0] in _PLAIN]
        return _PLAIN[max(plain, key=lambda one: one[1])[0]] if plain else None


def of_index(document: Mapping[str, Any]) -> int | None:
    """``total_size`` of an index, or ``None``: some were written without."""
    metadata = document.get("metadata")
    return (plain_count(metadata.get("total_size")) or None) if isinstance(metadata, Mapping) else None


def header_length(first: bytes) -> int:
    """How many bytes the JSON header has, by the first 8 of a file. Raises ``ValueError``."""
    if len(first) < HEADER_LENGTH_BYTES:
        raise ValueError("the file is shorter than a safetensors header")
    length = int.from_bytes(first[:HEADER_LENGTH_BYTES], "little")
    if not 2 <= length <= MOST_HEADER_BYTES:
        raise ValueError("the header's length is not one of a safetensors file")
    return length


def of_header(header: bytes) -> Weights:
    """Size and parameters of a whole file by its JSON header. Raises ``ValueError``."""
    document = json.loads(header)
    if not isinstance(document, dict):
        raise ValueError("the header is no JSON object")
    size, counts = 0, dict[str, int]()
    for name, tensor in document.items():
        if name == "__metadata__":
            continue
        if not isinstance(tensor, Mapping):
            raise ValueError(f"the tensor {name[:60]!r} has no description")
        shape, offsets, kind = tensor.get("shape"), tensor.get("data_offsets"), tensor.get("dtype")
        if not isinstance(shape, list) or not isinstance(offsets, list) or not isinstance(kind, str):
            raise ValueError(f"the tensor {name[:60]!r} lacks dtype, shape or data_offsets")
        begin_end = [plain_count(one) for one in offsets]
        elements = 1
        for one in shape:
            elements *= plain_count(one) or 0
        if len(begin_end) != 2 or begin_end[0] is None or begin_end[1] is None or begin_end[1] < begin_end[0]:
            raise ValueError(f"the tensor {name[:60]!r} has offsets that are none")
        size += begin_end[1] - begin_end[0]
        counts[kind] = counts.get(kind, 0) + elements
    return Weights(size, "header", _elements(counts), tuple(sorted(counts.items())))


def of_counts(counts: Mapping[str, Any] | None) -> Weights | None:
    """The hub's own count by type; ``None`` where it has none or a type whose size is not known here."""
    known = {k: n for k, v in (counts or {}).items() if (n := plain_count(v)) is not None}
    if not known or any(kind not in DTYPE_BYTES for kind in known):
        return None
    total = sum(int(DTYPE_BYTES[kind] * number) for kind, number in known.items())
    return Weights(total, "parameters", _elements(known), tuple(sorted(known.items())))


def of_files(files: Mapping[str, int | None]) -> int | None:
    """Sum of the sizes of the checkpoint's safetensors files at the root; ``None`` where one is not known."""
    shards = [size for name, size in files.items() if "/" not in name and _is_shard(name)]
    return None if not shards or None in shards else sum(size for size in shards if size is not None)


def _is_shard(name: str) -> bool:
    # Mistral's repositories hold the same weights a second time as consolidated*.safetensors.
    return name.endswith(".safetensors") and name.startswith("model")


def _elements(counts: Mapping[str, int]) -> int | None:
    """Parameters by elements; packed integers hold several, so that they cannot be counted."""
    packed = ("U8", "I8", "I32", "U32", "I64", "F4")
    if any(counts.get(kind, 0) * DTYPE_BYTES[kind] > 0.1 * _bytes(counts) for kind in packed):
        return None
    return sum(counts.values()) or None


def _bytes(counts: Mapping[str, int]) -> float:
    return sum(DTYPE_BYTES.get(kind, 2) * number for kind, number in counts.items())
