"""Names, labels and times of a run's objects, and how they are read back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from accelbench_assets.launch.kube import naming

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"


def test_names_come_from_the_end_of_the_run_id() -> None:
    assert naming.base_name(RUN) == "accelbench-0123456789ab"
    assert naming.load_name(RUN) == "accelbench-0123456789ab-load"
    assert naming.run12(RUN[:-1] + "C").endswith("ac")
    odd = naming.run12("Run_of somebody")
    assert len(odd) == 12
    assert set(odd) <= set("0123456789abcdef")
    assert naming.selector(RUN, "load") == (
        "app.kubernetes.io/managed-by=accelbench,accelbench.io/run=0123456789ab,"
        "app.kubernetes.io/component=load"
    )
    with pytest.raises(ValueError, match="'lod' is not one of"):
        naming.labels(RUN, "cell", "lod")


def test_times_go_to_annotations_and_back() -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 120, tzinfo=UTC)
    notes = naming.annotations(RUN, moment.astimezone(), 180.0)
    assert notes["accelbench.io/expires-at"] == "2026-03-01T12:00:00.000120Z"
    assert notes["accelbench.io/stale-s"] == "180"
    assert naming.parse_time(notes[naming.EXPIRES_AT]) == moment
    assert naming.parse_time("2026-03-01T12:00:00Z") == moment.replace(microsecond=0)
    assert naming.parse_time("soon") is None
    assert naming.parse_time(None) is None
