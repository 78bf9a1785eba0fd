"""The site in a real browser, opened from the disk: quiet, self-contained, chart drawn, table sorts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from accelbench_assets.reports.site import write_site
from tests.reports.synthetic import NOW, Rows, ladder

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="missing optional part: chromium (the browser tests need it)"
    ),
    pytest.mark.xdist_group("browser"),
]

playwright = pytest.importorskip("playwright.sync_api", reason="missing optional part: playwright")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = Rows()
    ladder(rows, 1, engine="truth", base=40)
    ladder(rows, 2, engine="vllm", base=60, ttft=120)
    rows.add_step(rows.add_run(4, engine="sglang"), 0, 8, rate=10, ttft=5)
    del rows.tables["run_percentiles"][-4:]  # a step of which nothing could be measured
    rows.add_run(3, status="failed", failure_text="<script>document.title='broken out'</script>")
    folder = tmp_path_factory.mktemp("site")
    return write_site(rows.connect(), folder, now=NOW, lake_url="file:///lake").pages[0]


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


class Watched:
    """A page and everything it complained about or asked for."""

    def __init__(self, browser: "playwright.Browser", **options: object) -> None:
        self.page = browser.new_page(**options)
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith(("file://", "data:")):
            self.elsewhere.append(url)

    def column(self, index: int) -> list[str]:
        rows = "[...document.querySelectorAll('#table tbody tr:not([hidden])')]"
        script = f"i => {rows}.map(row => row.cells[i].dataset.v)"
        return self.page.evaluate(script, index)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_opens_quietly_draws_the_chart_and_fits(
    browser: "playwright.Browser", index: Path, width: int, scheme: str
) -> None:
    seen = Watched(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen.page.goto(index.as_uri())
    seen.page.wait_for_selector("#chart[data-drawn]")
    assert seen.page.locator("#chart svg .mark-symbol path").count() >= 12
    assert seen.page.locator("#chart").get_attribute("data-drawn") == ("2" if width == 1280 else "1")
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width
    assert seen.page.title() == "AccelBench: LLM inference, measured"
    seen.page.locator("#chart svg .mark-symbol path").first.hover()
    seen.page.wait_for_selector("#vg-tooltip-element.visible")
    seen.page.locator("#legend button").first.click()
    assert (seen.complaints, seen.elsewhere) == ([], [])
    seen.page.close()


def test_sorting_filtering_and_state_in_the_address(browser: "playwright.Browser", index: Path) -> None:
    seen = Watched(browser)
    page = seen.page
    page.goto(index.as_uri())
    header = page.locator("th[data-key=output_tokens_per_s]")
    position = page.evaluate("document.querySelector('th[data-key=output_tokens_per_s]').cellIndex")
    before = seen.column(position)
    header.locator("button").click()
    down = [float(v) for v in seen.column(position)]
    assert down == sorted(down, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").focus()
    page.keyboard.press("Enter")
    up = [float(v) for v in seen.column(position)]
    assert up == sorted(up)
    assert header.get_attribute("aria-sort") == "ascending"
    page.locator("#filter").fill("VLLM c=4")
    assert page.locator("#shown").inner_text() == "1 of 7 results"
    address = page.evaluate("location.hash")
    assert "sort=output_tokens_per_s" in address
    page.goto("about:blank")
    page.goto(index.as_uri() + address)
    assert page.locator("#filter").input_value() == "VLLM c=4"
    assert page.locator("#shown").inner_text() == "1 of 7 results"
    page.locator("#filter").fill("no such thing")
    page.locator("#clear").click()
    assert [float(v) for v in seen.column(position)] == up
    header.locator("button").click()
    assert seen.column(position) == before
    assert page.evaluate("location.hash") == ""
    assert seen.complaints == []
    page.close()


def test_values_behind_a_gate_sort_last_both_ways(browser: "playwright.Browser", tmp_path: Path) -> None:
    rows = Rows()
    ladder(rows, 1)
    for step, p99 in enumerate((900.0, None, 100.0)):
        found = rows.tables["run_percentiles"][step * 4]
        found |= {"p99": p99, "p99_gate": "needs_n" if p99 is None else "published"}
    index = write_site(rows.connect(), tmp_path, now=NOW, lake_url="file:///lake").pages[0]
    seen = Watched(browser)
    seen.page.goto(index.as_uri())
    position = seen.page.evaluate("document.querySelector('th[data-key=ttft_p99]').cellIndex")
    button = seen.page.locator("th[data-key=ttft_p99] button")
    button.click()
    assert seen.column(position) == ["100.0", "900.0", ""]
    button.click()
    assert seen.column(position) == ["900.0", "100.0", ""]
    seen.page.close()


def test_a_link_to_a_run_opens_its_record(browser: "playwright.Browser", index: Path) -> None:
    seen = Watched(browser)
    seen.page.goto(index.as_uri())
    seen.page.locator("#table tbody th a").first.click()
    record = seen.page.locator("details.record").first
    seen.page.wait_for_function("document.querySelector('details.record').open")
    assert record.locator(".command code").is_visible()
    seen.page.close()


def test_without_scripts_the_table_and_a_still_chart_are_there(
    browser: "playwright.Browser", index: Path
) -> None:
    seen = Watched(browser, java_script_enabled=False)
    seen.page.goto(index.as_uri())
    assert seen.page.locator("#chart svg").is_visible()
    assert seen.page.locator("#table tbody tr").count() == 7
    assert seen.page.locator("th.q-p99").count() == 4
    assert seen.page.locator("th.q-p99").last.is_visible()
    assert seen.page.locator("#controls").is_hidden()
    seen.page.close()
