"""The cursor survives a restart, and damage to it starts nothing."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.releases.cursor import (
    MAX_CHARACTERS,
    SEEN_KEPT,
    Cursor,
    Pending,
    State,
    decode,
    encode,
)

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
STATE = State(
    "0.34.0", ("0.33.0",), Pending("0.34.0", "sha256:a", "ref", frozenset({"0" * 12, "a1b2c3d4e5f6"}))
)
CURSOR = Cursor(NOW, "2026-11", 3, Decimal("12.3456"), {"vllm": STATE, "model:x": State("c" * 40)})


def test_what_is_written_is_read_back_and_the_text_is_the_same_every_time() -> None:
    text = encode(CURSOR)
    assert decode(text) == (CURSOR, None)
    assert encode(decode(text)[0] or CURSOR) == text
    assert json.loads(text)["version"] == 1


def test_no_text_is_a_first_look() -> None:
    assert decode(None) == (None, None)
    assert decode("") == (None, None)


ids = st.text("0123456789abcdef", min_size=12, max_size=12)
pending = st.builds(Pending, st.text(), st.text(), st.text(), st.frozensets(ids, max_size=20))
states = st.builds(State, st.text(), st.lists(st.text(), max_size=SEEN_KEPT).map(tuple), st.none() | pending)
cursors = st.builds(
    Cursor,
    st.datetimes(timezones=st.just(UTC), min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1)),
    st.just("2026-11"),
    st.integers(0, 10**6),
    st.decimals(0, 10**6, places=4),
    st.dictionaries(st.text(), states, max_size=5),
)


@given(cursors)
def test_every_cursor_survives_a_restart(cursor: Cursor) -> None:
    assert decode(encode(cursor)) == (cursor, None)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(encode(CURSOR)).items() if key != name})


def having(**fields: object) -> str:
    return json.dumps({**json.loads(encode(CURSOR)), **fields})


@pytest.mark.parametrize(
    "text",
    [
        "0.33.0",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '"' + "x" * MAX_CHARACTERS + '"',
        *(without(n) for n in ("version", "looked_at", "month", "runs", "usd", "subjects")),
        having(version=2),
        having(looked_at="yesterday"),
        having(looked_at="2026-11-22T05:30:00"),
        having(month="November"),
        having(runs=-1),
        having(runs=True),
        having(usd="NaN"),
        having(usd="-1"),
        having(usd=5),
        having(subjects=[]),
        having(subjects={"vllm": "0.33.0"}),
        having(subjects={"vllm": {"known": 3, "seen": []}}),
        having(subjects={"vllm": {"known": "3", "seen": "2"}}),
        having(subjects={"vllm": {"known": "3", "seen": [], "pending": {"value": "4"}}}),
        having(
            subjects={
                "vllm": {
                    "known": "3",
                    "seen": [],
                    "pending": {"value": "4", "identity": "", "ref": "", "done": "a"},
                }
            }
        ),
    ],
)
def test_damage_is_a_warning_and_no_cursor(text: str) -> None:
    found, warning = decode(text)
    assert found is None
    assert warning is not None
    assert "only takes note" in warning
    assert len(warning) < 400


@given(st.text())
def test_no_text_whatever_breaks_the_reader(text: str) -> None:
    found, warning = decode(text)
    assert found is None or warning is None


def test_the_text_stays_small_for_five_thousand_cells_and_many_releases() -> None:
    done = frozenset(f"{n:012x}" for n in range(5000))
    seen = tuple(f"0.{n}.0" for n in range(1000))
    text = encode(
        Cursor(
            NOW + timedelta(1), "2026-11", subjects={"vllm": State("1", seen, Pending("1", "d", "r", done))}
        )
    )
    assert len(text) < 64_000
    found, _ = decode(text)
    assert found is not None
    assert found.subjects["vllm"].seen == seen[-SEEN_KEPT:]
