"""Limits of the accelerator pools: how many runs of a family may be under way at once.

Belongs here: bringing the setting ``pools.limits`` into a Dagster instance.
Does not belong here: which asset is in which pool (``benchmarks``); the default limit (``dagster.yaml``).
"""

from collections.abc import Mapping

import dagster as dg

from accelbench_assets.defs.benchmarks import asset_suffix
from accelbench_assets.errors import UsageError
from partitions.cell import families

MAX_LIMIT = 1000


def pool_name(family: str) -> str:
    """The pool of *family*'s samples."""
    return f"accelerator_{asset_suffix(family)}"


def apply_pool_limits(instance: dg.DagsterInstance, limits: Mapping[str, int]) -> dict[str, int]:
    """Set each family's pool to its limit; those that changed, by pool.

    A limit of 0 holds the family's runs in the queue. Families without a limit keep what they have: the instance's
    default, or what somebody set in the UI. Raises ``UsageError`` before anything is set for an unknown family or a
    limit outside 0 to ``MAX_LIMIT``.
    """
    for family, limit in limits.items():
        if family not in families():
            raise UsageError(
                f"Setting pools.limits: {family!r} is not an instance family.",
                hint=f"There are: {', '.join(families())}.",
            )
        if not 0 <= limit <= MAX_LIMIT:
            raise UsageError(
                f"Setting pools.limits: the limit of {family}, {limit}, is not within 0 to {MAX_LIMIT}."
            )
    storage = instance.event_log_storage
    known = {pool.name: pool.limit for pool in storage.get_pool_limits() if not pool.from_default}
    changed = {pool_name(f): limit for f, limit in limits.items() if known.get(pool_name(f)) != limit}
    for pool, limit in changed.items():
        storage.set_concurrency_slots(pool, limit)
    return changed
