"""How long a recommendation takes: the arithmetic alone, in processor time, for the machine may be busy."""

from __future__ import annotations

import time

import pytest

from tests.sizing.test_recommend import NAMED
from tests.sizing.test_recommend_cli import every_answer

pytestmark = pytest.mark.long


def test_six_models_on_every_instance_in_under_a_second() -> None:
    every_answer()  # reads the catalogs
    took = []
    for _ in range(3):
        began = time.process_time()
        found = every_answer()
        took.append(time.process_time() - began)
    instances = len(found[0].estimated) + len(found[0].left_out)
    print(f"\n{len(NAMED)} models on {instances} instances: {', '.join(f'{one:.2f}' for one in took)} s")
    assert min(took) < 1.0
