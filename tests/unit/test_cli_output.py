"""Tables fit, JSON is JSON, CSV is CSV, and nothing but a terminal gets control characters."""

import csv
import io
import json
import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.cli import state
from accelbench_assets.cli.options import Format, chosen, near, split_list
from accelbench_assets.cli.output import GAP, LONG_TABLE, Column, emit, fit, number, plain, share
from accelbench_assets.errors import UsageError

ROWS = [
    {
        "name": "ä",
        "x": 1234.5678,
        "when": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "more": {"a": float("nan")},
    },
    {"name": None, "x": None, "when": None, "more": [Decimal("0.5")]},
]
COLUMNS = [Column("name", "name"), Column("x", "x ms", "ms"), Column("when", "started", "time", keep=1)]


def test_number_keeps_three_digits_and_never_an_exponent() -> None:
    values = (0, 0.0412, 7.35, 98.64, 1234, 12345.6, 1e-7)
    assert [number(v) for v in values] == ["0", "0.0412", "7.35", "98.6", "1,234", "12,346", "0.000000100"]
    assert number(None) == number(math.nan) == number(math.inf) == "-"


@settings(deadline=None)
@given(st.floats(min_value=1e-6, max_value=1e9))
def test_number_is_right_to_half_a_percent(x: float) -> None:
    assert float(number(x).replace(",", "")) == pytest.approx(x, rel=0.0051)


def test_share() -> None:
    assert [share(v) for v in (0, 1e-9, 0.004, 0.12, 1.0, None)] == [
        "0%",
        "<0.01%",
        "0.4%",
        "12%",
        "100%",
        "-",
    ]


def test_json_listing_is_one_document_with_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS, Format.json, fields=("name", "x", "when", "more", "absent"))
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["rows"][0] == {
        "name": "ä",
        "x": 1234.5678,
        "when": "2026-01-02T03:04:00Z",
        "more": {"a": None},
        "absent": None,
    }
    assert document["rows"][1]["more"] == [0.5]
    emit([], COLUMNS, Format.json)
    assert json.loads(capsys.readouterr().out) == {"rows": []}


def test_csv_listing(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS, Format.csv)
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert read[0] == {"name": "ä", "x": "1234.5678", "when": "2026-01-02T03:04:00Z"}
    assert read[1] == {"name": "", "x": "", "when": ""}
    emit([], COLUMNS, Format.csv)
    assert capsys.readouterr().out == "name,x,when\n"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_table_in_a_pipe_has_no_control_characters_and_fits(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    state.reset()
    emit(ROWS, COLUMNS, Format.table)
    shown = capsys.readouterr()
    assert not [c for c in shown.out if ord(c) < 32 and c != "\n"]
    assert max(map(len, shown.out.splitlines())) <= width
    assert "1,235" in shown.out
    assert ("started" in shown.err) == ("started" not in shown.out)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=12), st.integers(20, 200)
)
def test_fit_drops_only_what_may_go_and_no_more_than_needed(sizes: list[tuple[int, int]], width: int) -> None:
    columns = [Column(f"c{i}", "", keep=keep) for i, (_, keep) in enumerate(sizes)]
    cells = [["x" * size for size, _ in sizes]]
    kept = fit(columns, cells, width)

    def needed(indexes: list[int]) -> int:
        return sum(sizes[i][0] for i in indexes) + GAP * (len(indexes) - 1)

    dropped = [i for i in range(len(sizes)) if i not in kept]
    assert all(sizes[i][1] > 0 for i in dropped)
    assert needed(kept) <= width or all(sizes[i][1] == 0 for i in kept)
    if dropped:
        last = min(dropped, key=lambda i: (sizes[i][1], i))
        assert needed(sorted([*kept, last])) > width


@settings(deadline=None, max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_plain_is_always_json(value: object) -> None:
    json.dumps(plain(value), allow_nan=False)


def test_shared_options() -> None:
    assert chosen(Format.table, True) is Format.json
    with pytest.raises(UsageError, match="--json and --format csv"):
        chosen(Format.csv, True)
    assert split_list("--concurrency", ["1,2", "4"]) == ["1", "2", "4"]
    with pytest.raises(UsageError, match="--concurrency"):
        split_list("--concurrency", ["1,,2"])
    known = ["llama-3.1-8b-instruct", "smollm2-135m-instruct"]
    assert "smollm2-135m-instruct?" in near("smolm2", known)
    assert "smollm2-135m-instruct?" in near("SmolM2", known)
    assert "Qwen3-8B?" in near("qwen3-8b", ["Qwen3-8B"])
    assert near("zzz", known).startswith("There are: llama")
    assert near("x", []) == "There are none."


def test_a_long_table_reads_like_a_short_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [{"name": "漢字" if n % 3 else "plain", "x": n * 1.5, "when": None} for n in range(40)]
    emit(rows, COLUMNS, Format.table)
    short = capsys.readouterr().out
    monkeypatch.setattr("accelbench_assets.cli.output.LONG_TABLE", 10)
    emit(rows, COLUMNS, Format.table)
    long = capsys.readouterr().out
    assert [line.rstrip() for line in long.splitlines()] == [line.rstrip() for line in short.splitlines()]
    assert "\x1b" not in long


def test_a_long_table_drops_columns_and_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    rows = [{"name": "name", "x": 1.0, "when": "2026-01-02T03:04:00Z"}] * (LONG_TABLE + 1)
    emit(rows, COLUMNS, Format.table)
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= 20
    assert len(shown.out.splitlines()) == LONG_TABLE + 3
    assert "No room for: started" in shown.err
