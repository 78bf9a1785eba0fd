"""Pages as people write them."""

from pathlib import Path

import pytest

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.paths import REPORTS_DIR
from accelbench_assets.reports.pages import Page, read_page


def page_of(folder: Path, text: str) -> Page:
    path = folder / "sample.md"
    path.write_text(text, encoding="utf-8")
    return read_page(path)


def test_queries_by_name_and_prose_apart(tmp_path: Path) -> None:
    page = page_of(tmp_path, "# Head\n\n```sql one\nselect 1\n```\n\nText with `code`.\n\n```sh\nls\n```\n")
    assert dict(page.queries) == {"one": "select 1"}
    assert "<h1>Head</h1>" in page.prose_html
    assert "<code>code</code>" in page.prose_html
    assert "select" not in page.prose_html
    assert "ls" in page.prose_html


def test_a_query_may_stand_in_a_later_one(tmp_path: Path) -> None:
    page = page_of(tmp_path, "```sql a\nselect 1 as x\n```\n```sql b\nselect x from ${a}\n```\n")
    assert page.queries["b"] == "select x from (select 1 as x)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```sql\nselect 1\n```", "needs a name"),
        ("```sql a\nselect 1\n```\n```sql a\nselect 2\n```", "needs a name of its own"),
        ("```sql a\nselect * from ${later}\n```", "does not name an earlier query"),
    ],
)
def test_a_wrong_fence_is_refused_with_the_page_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(AccelBenchError, match=says) as caught:
        page_of(tmp_path, text)
    assert "sample.md" in str(caught.value)


def test_html_in_prose_is_text(tmp_path: Path) -> None:
    assert "<b>" not in page_of(tmp_path, "a <b>bold</b> claim").prose_html


def test_the_index_page_reads() -> None:
    page = read_page(REPORTS_DIR / "pages" / "index.md")
    assert list(page.queries) == ["totals", "results", "percentiles", "costs", "provenance", "unfinished"]
