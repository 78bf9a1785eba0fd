"""5,000 cells that were never run: what is known of each, all of them new, and then with nothing changed."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from accelbench_assets.lake import registry
from accelbench_assets.lake.lake import Lake
from accelbench_assets.lake.storage import LocalStorage
from accelbench_assets.sizing.grid import Grid, look, store
from tests.benchmarks.test_cells import COUNT, cells


@pytest.mark.long
def test_estimates_of_5000_cells_take_seconds(tmp_path: Path) -> None:
    """Every cell has a deployment of its own, so nothing can be shared: the worst case."""
    lake, at = Lake.open((tmp_path / "lake").as_uri()), datetime(2026, 11, 22, tzinfo=UTC)
    registry.put_cells(LocalStorage(tmp_path / "lake"), cells(COUNT))

    def timed() -> tuple[Grid, float, float]:
        wall, began = time.perf_counter(), time.process_time()
        grid = look(lake, "us-east-1", at)
        store(lake, grid, at)
        return grid, time.process_time() - began, time.perf_counter() - wall

    first, new_s, new_wall_s = timed()
    again, same_s, same_wall_s = timed()
    said = ", ".join(f"{count} {name}" for name, count in first.states.items())
    print(
        f"\nestimates of {first.cells} cells ({said}): {new_s:.2f} s of processor, {new_wall_s:.2f} s in all, "
        f"{new_s / COUNT * 1e6:.0f} us a cell; unchanged {same_s:.2f} s and {same_wall_s:.2f} s"
    )
    assert (first.fresh.num_rows, again.fresh.num_rows) == (COUNT, 0)
    assert again.states == first.states
    assert new_s < 15
    assert same_s < new_s
