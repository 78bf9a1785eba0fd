"""What is put aside covers every node that a start can rent, also those that replace lost ones."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from accelbench_assets.budget.base import NODE_IDLE_S, REPLACED_NODES, paid_seconds
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import NoHold
from accelbench_assets.launch.kube.look import Look
from accelbench_assets.launch.kube.serving import Wait
from accelbench_assets.launch.kube.trouble import Trouble

DEADLINE_S = 3600.0


def rented_s(replicas: int, losses: list[tuple[float, int]]) -> float:
    """Machine-seconds that are paid for when at each ``(time, how many)`` so many nodes are lost, but stay, idle, as
    long as an empty node does. A pod is ordered anew at once; the loss beyond what is replaced ends the run there.
    """
    total = lost = 0.0
    since = [0.0] * replicas
    for at, many in losses:
        lost += many
        for index in range(many):
            total += at - since[index] + NODE_IDLE_S
            since[index] = at
        if lost > REPLACED_NODES:
            return total + sum(at - one + NODE_IDLE_S for one in since)
    return total + sum(DEADLINE_S - one + NODE_IDLE_S for one in since)


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_no_order_of_losses_costs_more_than_was_put_aside(replicas: int) -> None:
    aside = paid_seconds(DEADLINE_S, replicas) * replicas
    times = (0.0, 900.0, 3599.0, DEADLINE_S)
    worst = 0.0
    for first, then in itertools.combinations_with_replacement(times, 2):
        for many, more in itertools.product(range(replicas + 1), repeat=2):
            worst = max(worst, rented_s(replicas, [(first, many), (then, more)]))
    assert worst <= aside
    assert worst == aside, "nor is more put aside than the worst"
    assert aside > replicas * (DEADLINE_S + NODE_IDLE_S)


def test_no_replicas_cost_nothing() -> None:
    with pytest.raises(ValueError, match="0 replicas"):
        paid_seconds(60.0, 0)


def looked(*nodes: str) -> Look:
    pods = [
        {"metadata": {"name": f"p{i}", "uid": str(i)}, "spec": {"nodeName": n} if n else {}}
        for i, n in enumerate(nodes)
    ]
    return Look(pods=pods, now=datetime.now(UTC))


def waiting(replicas: int) -> tuple[Wait, NoHold]:
    class Quiet:
        def path(self, pod: str) -> None:
            return None

    hold, nothing = NoHold(), cast("Any", None)
    wait = Wait(nothing, nothing, "m", replicas, nothing, cast("Any", Quiet()), hold, nothing, nothing, 0.0)
    return wait, hold


def test_a_start_that_takes_more_nodes_than_reserved_is_ended() -> None:
    wait, hold = waiting(replicas=2)
    wait._see_nodes(looked("", ""))
    assert hold.billed_since is None
    wait._see_nodes(looked("a", ""))
    began = hold.billed_since
    assert began is not None
    wait._see_nodes(looked("a", "b"))
    assert hold.billed_since == began
    wait._see_nodes(looked("a", "c"))
    assert hold.billed_since == began - NODE_IDLE_S / 2, "half of the run's machines idled once more"
    wait._see_nodes(looked("c", "a"))
    assert hold.billed_since == began - NODE_IDLE_S / 2, "the same nodes cost nothing more"
    wait.taken = Trouble("evicted", "Pod p1 was evicted.")
    with pytest.raises(LaunchError, match=r"Pod p1 was evicted\. This start has lost 2 nodes") as caught:
        wait._see_nodes(looked("d", "a"))
    assert caught.value.code == "evicted"
    assert hold.billed_since == began - NODE_IDLE_S
