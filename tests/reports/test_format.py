"""How single values are written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.reports import format


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.08421, "0.0842"),
        (8.421, "8.42"),
        (84.21, "84.2"),
        (842.1, "842"),
        (999.6, "1,000"),
        (9.996, "10.0"),
        (12345.6, "12,346"),
        (-8.421, "-8.42"),
        (None, format.MISSING),
        (math.nan, format.MISSING),
        (math.inf, "∞"),
    ],
)
def test_significant(value: float | None, text: str) -> None:
    assert format.significant(value) == text


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_a_written_number_is_within_half_a_per_cent(value: float) -> None:
    assert float(format.significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@given(st.floats(min_value=1e-9, max_value=1.0))
def test_a_small_share_never_reads_as_zero(value: float) -> None:
    assert format.share(value) != format.share(0.0)
    assert float(format.share(value).removesuffix(" %").replace(",", "")) > 0
