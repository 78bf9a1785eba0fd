"""After any fault and one pass of the reaper: nothing runs, nothing partial is published, nothing committed is lost,
and the next run succeeds.
"""

from __future__ import annotations

import pytest

from tests.faults.cases import CASES, KILLS, Case
from tests.faults.conftest import OUTCOMES
from tests.faults.runner import play
from tests.support.eks import EksWorld

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=() if c.sample else pytest.mark.long) for c in CASES]
)
def test_after_the_fault_nothing_is_left_and_nothing_is_lost(case: Case, in_world: EksWorld) -> None:
    outcome = play(in_world, case)
    OUTCOMES.append(outcome)
    assert not outcome.problem, outcome.problem


def test_the_matrix_kills_at_twenty_points_or_more() -> None:
    assert len({case.name for case in KILLS}) >= 20
