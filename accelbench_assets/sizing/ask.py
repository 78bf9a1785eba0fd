"""What is asked of the recommender, checked at the edge.

Belongs here: ``Ask`` and the reading of an SLO, of model and instance names. Does not belong here: answering.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from accelbench_assets.errors import UsageError
from accelbench_assets.sizing.engine_memory import UTILIZATION
from accelbench_assets.sizing.kv import value_bytes
from accelbench_assets.sizing.weights import BITS, scheme
from partitions.catalog import instance_families, load_instances, load_models
from partitions.rows import InstanceRow, ModelRow

HEADROOM = 0.75
"""Share of the rate at the SLO that is planned with."""
HOURS_PER_MONTH = 730
AUTO, ANY = "auto", "any"
LONGEST_TOKENS = 2_000_000


@dataclass(frozen=True, slots=True)
class Ask:
    """A question. Times in ms, lengths in tokens, ``rps`` requests per second, money in USD.

    ``quantization``: ``auto`` = the checkpoint's precision, a lower one only where that does not do; ``any`` = whatever
    is cheapest; or one precision. ``max_model_len`` null = long enough for the lengths. Raises ``UsageError`` naming
    the field.
    """

    model: ModelRow
    instances: tuple[InstanceRow, ...]
    isl: int
    osl: int
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    rps: float | None = None
    max_usd_per_month: float | None = None
    quantization: str = AUTO
    kv_cache_dtype: str = "auto"
    max_model_len: int | None = None
    utilization: float = UTILIZATION
    engine_version: str | None = None

    def __post_init__(self) -> None:
        for name in ("isl", "osl", "max_model_len"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= LONGEST_TOKENS:
                raise UsageError(f"{name}: {value} is not a number of tokens from 1 to {LONGEST_TOKENS:,}.")
        for name in ("ttft_ms", "tpot_ms", "rps", "max_usd_per_month"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name}: {value} is not a positive number.")
        if not 0 < self.utilization <= 1:
            raise UsageError(f"utilization: {self.utilization} is not between 0 and 1.")
        if self.quantization not in (AUTO, ANY):
            scheme(self.quantization)
        value_bytes(self.kv_cache_dtype)
        if self.context > self.model.max_position_embeddings:
            raise UsageError(
                f"{self.model.slug} has {self.model.max_position_embeddings:,} positions; {self.context:,} were "
                f"asked for ({self.isl:,} in and {self.osl:,} out)."
            )
        if self.isl + self.osl > self.context:
            raise UsageError(
                f"max_model_len: {self.context:,} is less than {self.isl:,} tokens in and {self.osl:,} out."
            )

    @property
    def context(self) -> int:
        """``max_model_len``: as asked, else the next power of two from 2,048 up that holds both lengths."""
        if self.max_model_len is not None:
            return self.max_model_len
        wanted = max(2048, 1 << (self.isl + self.osl - 1).bit_length())
        longest = max(self.model.max_position_embeddings, self.isl + self.osl)
        return min(wanted, longest)

    @property
    def resident(self) -> int:
        """Tokens a request holds on average over its life: the prompt and half the answer."""
        return self.isl + self.osl // 2


def parse_slo(text: str) -> tuple[float | None, float | None]:
    """``ttft=800,tpot=40`` (ms, either may be left out) as (ttft_ms, tpot_ms). Raises ``UsageError``."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        name = name.strip().lower().removesuffix("_ms")
        try:
            value = float(number.strip().lower().removesuffix("ms"))
        except ValueError:
            value = 0.0
        if not equals or name not in ("ttft", "tpot") or not 0 < value < float("inf"):
            raise UsageError(
                f"--slo: {part.strip()!r} is not an objective.",
                hint="Write ttft=1000,tpot=50 in milliseconds (either alone will do), or a preset's name.",
            )
        if name in found:
            raise UsageError(f"--slo: {name} is given twice.")
        found[name] = value
    return found.get("ttft"), found.get("tpot")


def find_model(wanted: str) -> ModelRow | None:
    """The catalog's model by slug or whole model id, whatever the case; or by a slug without its ``-instruct`` or
    ``-it``, where only one model is called so. An id is never taken for another organisation's, nor for another model
    of the same one: a base model or somebody's copy may have other weights.
    """
    name = wanted.strip().lower()
    models = load_models()
    by_id = {row.model_id.lower(): row for row in models.values()}
    if found := models.get(name) or by_id.get(name):
        return found
    begins = [row for slug, row in models.items() if slug in (f"{name}-instruct", f"{name}-it")]
    return begins[0] if len(begins) == 1 else None


def find_instances(wanted: str | None) -> tuple[InstanceRow, ...]:
    """An instance type, all of a family, or all there are (null); empty where nothing has that name."""
    rows: Collection[InstanceRow] = load_instances().values()
    if wanted is None:
        return tuple(rows)
    name = wanted.strip().lower()
    return tuple(row for row in rows if name in (row.instance_type, row.family))


def known_names() -> tuple[list[str], list[str]]:
    """(models, instances and families): what may be written, for a message after a wrong name."""
    models = [name for slug, row in load_models().items() for name in (slug, row.model_id)]
    return models, [*load_instances(), *instance_families()]


def precision_words() -> list[str]:
    """What ``--quantization`` may be."""
    return [AUTO, ANY, *BITS]
