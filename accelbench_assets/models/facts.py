"""The ``models`` table: packaged facts, and those of the hub where they were asked for.

Belongs here: one row a model, with source and day. Does not belong here: the packaged facts themselves
(``partitions/models.yaml``), which say how each is known; asking the hub (``live``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from accelbench_assets.instances.age import Age, age_of
from accelbench_assets.lake.tables import SCHEMAS
from partitions.catalog import load_models, models_file

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.models.live import LiveModel
    from partitions.catalog import ModelRow

# Columns that are fields or properties of the row under the same name.
SAME = (
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


def packaged_age(today: date | None = None) -> Age:
    """The age of ``models.yaml``."""
    return age_of(models_file().as_of, today)


def packaged_record(row: ModelRow) -> dict[str, Any]:
    """A packaged row as a row of the table."""
    file = models_file()
    return {
        **{name: getattr(row, name) for name in SAME},
        "revision": row.commit or row.revision,
        "fetched_at": datetime.fromisoformat(file.as_of).replace(tzinfo=UTC),
        "source": "; ".join(file.sources[name] for name in row.source.split("+")),
    }


def models_table(live: Mapping[str, LiveModel] | None = None) -> pa.Table:
    """One row a model of ``models.yaml``, in file order, schema ``models``; *live* (by slug) replaces packaged rows.

    ``revision`` is the whole commit (or ``unpinned``), ``weight_bytes`` the checkpoint's,
    ``kv_bytes_per_token`` that of a long sequence at 16 bits, ``fetched_at`` the day the facts are of.
    """
    found = dict(live or {})
    rows = [
        found[slug].record() if slug in found else packaged_record(row) for slug, row in load_models().items()
    ]
    return _table(rows)


def _table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS["models"])
