"""The ``models`` table from the packaged facts.

Belongs here: one row a model, with source and day. Does not belong here: the facts themselves
(``partitions/models.yaml``), which say how each is known.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from accelbench_assets.lake.tables import SCHEMAS
from partitions.catalog import load_models, models_file

if TYPE_CHECKING:
    import pyarrow as pa

    from partitions.catalog import ModelRow

# Columns that are fields or properties of the row under the same name.
_SAME = (
    "model_id",
    "architecture",
    "parameters",
    "active_parameters",
    "layers",
    "hidden_size",
    "attention_heads",
    "kv_heads",
    "head_dim",
    "attention_kind",
    "sliding_window",
    "experts",
    "experts_per_token",
    "vocab_size",
    "max_position_embeddings",
    "dtype",
    "quantization",
    "weight_bytes",
    "kv_bytes_per_token",
    "gated",
    "license",
)


def _record(row: ModelRow, fetched_at: datetime, sources: dict[str, str]) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _SAME},
        "revision": row.commit or row.revision,
        "fetched_at": fetched_at,
        "source": "; ".join(sources[name] for name in row.source.split("+")),
    }


def models_table() -> pa.Table:
    """One row a model of ``models.yaml``, in file order, schema ``models``.

    ``revision`` is the whole commit (or ``unpinned``), ``weight_bytes`` the checkpoint's,
    ``kv_bytes_per_token`` that of a long sequence at 16 bits, ``fetched_at`` the day the facts are of.
    """
    import pyarrow as pa

    file = models_file()
    day = datetime.fromisoformat(file.as_of).replace(tzinfo=UTC)
    records = [_record(row, day, dict(file.sources)) for row in load_models().values()]
    return pa.Table.from_pylist(records, schema=SCHEMAS["models"])
