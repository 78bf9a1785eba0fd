"""What the built site says, and that it is put in place whole."""

import errno
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.reports import build_site, chart, site
from accelbench_assets.reports.results import quantile_cell
from accelbench_assets.reports.site import SiteReport, write_site
from tests.reports.synthetic import NOW, Rows, ladder

LAKE_URL = "file:///somewhere/lake"
HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "<!--<script>",
    "]]></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "' onmouseover='alert(1)",
    "&lt;b&gt;&amp;",
    "\u2028\u202e\u0000",
)


class Structure(HTMLParser):
    """Tags with their attribute names, text of each script, and links, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def structure(html: str) -> Structure:
    parser = Structure()
    parser.feed(html)
    parser.close()
    return parser


def build(rows: Rows, folder: Path) -> str:
    write_site(rows.connect(), folder, now=NOW, lake_url=LAKE_URL)
    return (folder / "index.html").read_text(encoding="utf-8")


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for builds that only look at the page: the browser bundle is made once."""
    return tmp_path_factory.mktemp("site")


def test_built_from_a_real_lake(tmp_path: Path) -> None:
    lake = Lake.open((tmp_path / "lake").as_uri())
    rows = Rows()
    run_id = ladder(rows, 1)
    rows.add_run(2, status="failed", failure_code="crashed", failure_text="The engine died after 2 s.")
    rows.write(lake)
    report = build_site(lake, tmp_path / "site", now=NOW)
    html = report.pages[0].read_text(encoding="utf-8")
    assert report == SiteReport(pages=(tmp_path / "site" / "index.html",), bytes=report.bytes, rows=3)
    assert report.bytes > 900_000
    assert f'href="#run-{run_id}"' in html
    assert f'id="run-{run_id}"' in html
    assert "The engine died after 2 s." in html
    assert "2026-11-21 12:00:00 UTC" in html


def test_an_empty_lake_says_what_to_run(tmp_path: Path) -> None:
    lake = Lake.open((tmp_path / "lake").as_uri())
    report = build_site(lake, tmp_path / "site", now=NOW)
    text = words(report.pages[0].read_text(encoding="utf-8"))
    assert report.rows == 0
    assert "No results yet" in text
    assert "accelbench demo" in text
    assert not list((tmp_path / "site" / "assets").glob("vega*"))


def test_gates_are_words_and_never_numbers(shared: Path) -> None:
    rows = Rows()
    ladder(rows, 1)
    rows.tables["run_percentiles"][0] |= {"p90": None, "p90_gate": "beyond_timeout", "p99_needs_n": 66123}
    html = build(rows, shared)
    assert "needs ≥ 66,123 requests" in html
    assert "needs ≥ 2,000 requests" in html
    assert "&gt; timeout" in html
    assert "wide</span>" in html


@pytest.mark.parametrize("gate", ["needs_n", "beyond_timeout"])
@given(value=st.none() | st.floats(allow_nan=False))
def test_no_number_gets_past_a_gate(gate: str, value: float | None) -> None:
    cell = quantile_cell({"p99": value, "p99_gate": gate, "p99_needs_n": 500}, "p99")
    assert cell.text in ("needs ≥ 500 requests", "> timeout")


@pytest.mark.parametrize("origin", ["measured", "simulated", "estimated", "external"])
@pytest.mark.parametrize("level", ["demo", "smoke", "standard", "publication"])
def test_every_row_states_origin_and_evidence(shared: Path, origin: str, level: str) -> None:
    rows = Rows()
    run_id = rows.add_run(1, origin=origin, evidence_level=level)
    rows.add_step(run_id, 0, 1, rate=10, ttft=5, load_kind="open")
    body = build(rows, shared).partition("<tbody>")[2].partition("</tbody>")[0]
    assert re.search(rf'class="badge origin-{origin}">.*?</svg>{origin}</span>', body, re.S)
    assert re.search(rf'class="badge evidence">.*?</svg>{level}</span>', body, re.S)


def test_only_measured_and_well_evidenced_results_count_as_rankable(shared: Path) -> None:
    rows = Rows()
    ladder(rows, 1, origin="simulated", evidence_level="publication")
    ladder(rows, 2, origin="measured", evidence_level="smoke")
    assert "Nothing here is ranked." in build(rows, shared)
    ladder(rows, 3, origin="measured", evidence_level="standard")
    assert "3 of 9 results may be ranked." in build(rows, shared)


def test_cost_or_its_missing_reason(shared: Path) -> None:
    rows = Rows()
    for number, (instance, reason) in enumerate(
        [
            ("local-1a2b3c4d", None),
            ("g6e.xlarge", None),
            ("local-99999999", None),
            ("p9.xlarge", "not sold here"),
        ]
    ):
        run_id = rows.add_run(number, instance_type=instance, cost_missing_reason=reason)
        rows.add_step(run_id, 0, 1, rate=1000, ttft=5, load_kind="open")
    rows.add_price("g6e.xlarge", "1.861")
    rows.add_price("local-99999999", "0.36", tier="declared")
    html = build(rows, shared)
    assert "$0.517" in html  # 1.861 USD/h / 3600 s / 1000 tok/s * 1e6
    assert "on demand · us-east-1" in html
    assert "$0.100" in html
    assert "declared price" in html
    assert "no price is known for local-1a2b3c4d" in html
    assert "not sold here" in html


def test_a_superseded_run_is_not_a_result(shared: Path) -> None:
    rows = Rows()
    run_id = ladder(rows, 1)
    ladder(rows, 2)
    rows.tables["supersessions"].append({"run_id": run_id, "reason": "wrong weights", "at": NOW})
    html = build(rows, shared)
    assert f"run-{run_id}" not in html
    assert html.count('scope="row"') == 3


def test_void_runs_are_shown_as_attempts_with_their_reason(shared: Path) -> None:
    rows = Rows()
    validity = {"client_lag": {"verdict": "void", "value": 80, "limit": 50, "text": "Loop lag 80 ms."}}
    run_id = rows.add_run(1, status="void", validity=json.dumps(validity))
    html = build(rows, shared)
    assert "client_lag: Loop lag 80 ms." in html
    assert f'id="run-{run_id}"' not in html


def test_secrets_are_masked_once_more(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "value-of-the-key")
    rows = Rows()
    ladder(rows, 1, reproduce_command="accelbench run --header token=value-of-the-key")
    rows.add_run(2, status="failed", failure_text="401 for value-of-the-key")
    assert "value-of-the-key" not in build(rows, shared)


def test_nothing_is_loaded_from_elsewhere_and_no_script_or_style_is_inline(shared: Path) -> None:
    rows = Rows()
    ladder(rows, 1)
    page = structure(build(rows, shared))
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    policy = next(v for n, v in page.attributes if n == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "style"
        if name in ("src", "href"):
            assert value.startswith(("#", "assets/", "data:image/svg+xml,"))
    assert [s for s in page.scripts if s.strip()] == [s for s in page.scripts if s.strip().startswith("{")]


def structure_with(text: str, folder: Path) -> Structure:
    """The page when every text of the lake is *text*."""
    rows = Rows()
    run_id = rows.add_run(
        1, model=text, label=text, engine=text, engine_version=text, instance_type=text, model_id=text,
        accelerator_name=text, workload_id=text, origin=text, evidence_level=text, cost_missing_reason=text,
        reproduce_command=text, engine_args=text,
        validity=json.dumps({text: {"verdict": "warn", "text": text}}),
    )  # fmt: skip
    rows.add_step(run_id, 0, 2, rate=40, ttft=80)
    rows.add_run(2, status="failed", failure_text=text, failure_code=text, model=text)
    return structure(build(rows, folder))


@pytest.fixture(scope="module")
def harmless(shared: Path) -> Structure:
    return structure_with("x", shared)


@settings(max_examples=4, deadline=None)
@given(parts=st.lists(st.sampled_from(HOSTILE) | st.text(max_size=6), min_size=1, max_size=3))
@example(parts=list(HOSTILE))
def test_hostile_text_stays_text(shared: Path, harmless: Structure, parts: list[str]) -> None:
    hostile = structure_with("x" + "".join(parts).encode("utf-8", "ignore").decode(), shared)
    assert hostile.tags == harmless.tags
    assert json.loads(next(s for s in hostile.scripts if s.strip()))["concat"]


def test_a_failed_build_leaves_the_old_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    ladder(rows, 1)
    before = build(rows, tmp_path)
    assets = sorted(p.name for p in (tmp_path / "assets").iterdir())
    ladder(rows, 2)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(site, "_replace", full)
    with pytest.raises(AccelBenchError, match="The disk is full"):
        build(rows, tmp_path)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == before
    assert sorted(p.name for p in (tmp_path / "assets").iterdir()) == assets


def test_a_failed_write_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    ladder(rows, 1)
    before = build(rows, tmp_path)
    ladder(rows, 2)
    monkeypatch.setattr(site.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(AccelBenchError, match="I/O error"):
        build(rows, tmp_path)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == before
    assert not list(tmp_path.rglob("*.part"))


def test_old_assets_go_and_the_bundle_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    ladder(rows, 1)
    build(rows, tmp_path)
    (tmp_path / "assets" / "site.000000000000.js").write_text("old")
    monkeypatch.setattr(chart, "browser_bundle", lambda: pytest.fail("made twice"))
    html = build(rows, tmp_path)
    names = {p.name for p in (tmp_path / "assets").iterdir()}
    assert names == set(re.findall(r'"assets/([^"]+)"', html))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(AccelBenchError, match="taken"):
        build(Rows(), tmp_path / "taken")


def test_the_chart_shows_the_newest_run_of_each_cell_and_counts_what_it_leaves_out(shared: Path) -> None:
    rows = Rows()
    for number in range(chart.MAX_SERIES + 2):
        ladder(rows, number + 1, engine_version=f"{number}.0")
    rows.tables["runs"].append(rows.tables["runs"][0] | {"run_id": "older", "committed_at": None})
    rows.add_step("older", 0, 16, rate=9999, ttft=1)
    html = build(rows, shared)
    assert "2 more cells in the table only." in html
    spec = json.loads(next(s for s in structure(html).scripts if s.strip()))
    drawn = next(iter(spec["datasets"].values())) if "datasets" in spec else spec["data"]["values"]
    assert len(drawn) == 3 * chart.MAX_SERIES
    assert {d["concurrency"] for d in drawn} == {1, 2, 4}


def test_without_a_publishable_ttft_there_is_no_ttft_panel(shared: Path) -> None:
    rows = Rows()
    ladder(rows, 1)
    for row in rows.tables["run_percentiles"]:
        row |= {"p50": None, "p50_gate": "needs_n", "p50_needs_n": 40}
    html = build(rows, shared)
    assert len(json.loads(next(s for s in structure(html).scripts if s.strip()))["concat"]) == 1
    assert "No TTFT p50 has the requests it needs to be shown." in html
