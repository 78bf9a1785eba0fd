"""The setting ``pools.limits`` reaches the orchestrator's pools."""

from collections.abc import Iterator, Mapping

import dagster as dg
import pytest
from dagster._core.test_utils import instance_for_test

from accelbench_assets.defs.benchmarks import raw_samples_asset
from accelbench_assets.defs.pools import MAX_LIMIT, apply_pool_limits, pool_name
from accelbench_assets.errors import UsageError
from partitions.cell import families


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with instance_for_test(
        overrides={"concurrency": {"pools": {"default_limit": 1, "granularity": "run"}}}
    ) as one:
        yield one


def limits(instance: dg.DagsterInstance) -> dict[str, int]:
    return {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}


def test_every_family_s_pool_is_the_one_its_samples_are_in() -> None:
    for family in families():
        (pool,) = raw_samples_asset(family).op.pools
        assert pool == pool_name(family)


def test_limits_are_set_once_changed_and_otherwise_left_alone(instance: dg.DagsterInstance) -> None:
    assert apply_pool_limits(instance, {"g6e": 2, "p5": 1}) == {"accelerator_g6e": 2, "accelerator_p5": 1}
    assert limits(instance) == {"accelerator_g6e": 2, "accelerator_p5": 1}
    assert apply_pool_limits(instance, {"g6e": 2, "p5": 1}) == {}
    assert apply_pool_limits(instance, {"g6e": 3}) == {"accelerator_g6e": 3}
    assert limits(instance) == {"accelerator_g6e": 3, "accelerator_p5": 1}
    assert apply_pool_limits(instance, {"p5": 0}) == {"accelerator_p5": 0}
    assert instance.event_log_storage.get_concurrency_info("accelerator_g6e").slot_count == 3
    assert apply_pool_limits(instance, {}) == {}


def test_a_limit_equal_to_the_default_is_made_its_own(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.initialize_concurrency_limit_to_default("accelerator_trn2")
    assert apply_pool_limits(instance, {"trn2": 1}) == {"accelerator_trn2": 1}
    assert [pool.from_default for pool in instance.event_log_storage.get_pool_limits()] == [False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"g6e": 2, "g99": 1}, "'g99' is not an instance family"),
        ({"g6e": 2, "p5": -1}, "limit of p5, -1, is not within"),
        ({"g6e": MAX_LIMIT + 1}, "is not within 0 to"),
    ],
)
def test_what_cannot_be_set_is_refused_before_anything_is(
    instance: dg.DagsterInstance, given: Mapping[str, int], said: str
) -> None:
    with pytest.raises(UsageError, match=r"Setting pools\.limits") as error:
        apply_pool_limits(instance, given)
    assert said in error.value.message
    assert limits(instance) == {}
