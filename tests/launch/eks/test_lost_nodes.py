"""Nodes lost while servers start, on the emulated cluster: one is replaced and paid for, the next ends the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from accelbench_assets.budget.base import NODE_IDLE_S
from accelbench_assets.launch.kube.naming import run12
from tests.launch.eks.conftest import Bench, MakeBench
from tests.launch.kube.harness import KubeLocal
from tests.support.waiting import HANG_S

IMAGE = "vllm/vllm-openai:lost"


@pytest.fixture
def lose(kube: KubeLocal) -> Iterator[Callable[[Bench, int], list[str]]]:
    """From now on the node of the server falls silent as soon as the server runs there, so often."""
    lost: list[str] = []
    over = threading.Event()
    threads: list[threading.Thread] = []

    def losing(bench: Bench, times: int) -> list[str]:
        label = f"accelbench.io/run={run12(bench.spec.run_id)}"

        def strike() -> None:
            while len(lost) < times and not over.wait(0.05):
                for pod in kube.objects(label, "Pod"):
                    name, phase = pod["spec"].get("nodeName"), pod["status"].get("phase")
                    if phase == "Running" and name not in lost:
                        lost.append(name)
                        kube.make_node_unready(name, after_s=0)

        threads.append(threading.Thread(target=strike, daemon=True))
        threads[0].start()
        return lost

    yield losing
    over.set()
    for thread in threads:
        thread.join(HANG_S)
    for name in lost:
        kube.make_node_ready(name)


def test_the_first_is_replaced_and_its_idle_time_is_paid_for(
    make: MakeBench, kube: KubeLocal, lose: Callable[[Bench, int], list[str]]
) -> None:
    bench = make(engine_images={"vllm": IMAGE})
    kube.set_faults([{"pod": IMAGE, "do": "hang_not_ready", "times": 1}])
    lost = lose(bench, 1)
    began = time.monotonic()
    with bench.serving() as endpoint:
        assert endpoint.facts["node_name"] not in lost
        attempt = bench.launcher._attempt
        assert attempt is not None
        since = attempt.keeper.billed_since
    assert since is not None
    assert began - NODE_IDLE_S <= since <= time.monotonic() - NODE_IDLE_S
    assert len(lost) == 1


def test_the_second_ends_the_start(
    make: MakeBench, kube: KubeLocal, lose: Callable[[Bench, int], list[str]]
) -> None:
    bench = make(engine_images={"vllm": IMAGE})
    kube.set_faults([{"pod": IMAGE, "do": "hang_not_ready"}])
    lost = lose(bench, 2)
    error = bench.failure()
    assert error.code == "node_lost"
    assert len(lost) == 2
    assert lost[-1] in error.message
    assert len([text for text in bench.said("warning") if "A new pod takes its place" in text]) == 1
