"""The YAML catalogs: what is packaged is sound, what is wrong is refused by file, row and field."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from partitions import catalog

LOADERS = (
    catalog.load_models,
    catalog.load_instances,
    catalog.load_suites,
    catalog.instance_families,
    catalog.models_file,
    catalog.instances_file,
)
Edit = Callable[[dict[str, Any]], object]
BEYOND = len(catalog.load_models()) + 1
"""The number of a row after the last one of models.yaml."""


def clear() -> None:
    for loader in LOADERS:
        loader.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("models.yaml", "instances.yaml", "suites.yaml"):
        shutil.copy(catalog.FOLDER / name, tmp_path / name)
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    clear()
    yield tmp_path
    clear()


def edit(folder: Path, name: str, change: Edit) -> None:
    document = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
    change(document)
    (folder / name).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def row(section: str, index: int, **changes: object) -> Edit:
    return lambda document: document[section][index].update(changes)


def block(**changes: object) -> Edit:
    return lambda document: document["suites"][0]["rows"][0].update(changes)


def test_a_rewritten_file_loads_the_same(folder: Path) -> None:
    before = (catalog.load_models(), catalog.load_instances(), catalog.load_suites())
    clear()
    for name in ("models.yaml", "instances.yaml", "suites.yaml"):
        edit(folder, name, lambda document: None)
    assert (catalog.load_models(), catalog.load_instances(), catalog.load_suites()) == before


def test_what_the_suites_name_exists() -> None:
    workloads = {p.stem for p in (catalog.FOLDER.parent / "loadgen" / "workloads").glob("*.yaml")}
    assert workloads, "the load generator's workloads are where they belong"
    for suite in catalog.load_suites().values():
        for suite_row in suite.rows:
            assert set(suite_row.workloads) <= workloads
            assert set(suite_row.models) <= set(catalog.load_models())


def test_every_row_has_a_source_the_file_explains() -> None:
    for file, rows in (
        (catalog.models_file(), [m.source for m in catalog.load_models().values()]),
        (catalog.instances_file(), [i.accelerator.source for i in catalog.load_instances().values()]),
    ):
        named = {part for source in rows for part in source.split("+")}
        assert named <= set(file.sources)
        assert set(file.sources) - named <= {"karpenter"}  # also the source of the instance rows themselves
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", file.as_of)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("models.yaml", row("models", 1, color="red"), r"models.yaml, row llama.*, field color"),
        ("models.yaml", lambda d: d["models"][1].pop("layers"), r"row llama.*layers: is missing"),
        ("models.yaml", row("models", 1, layers="32"), r"field layers: '32' is not of the type int"),
        ("models.yaml", row("models", 1, layers=True), r"field layers: True"),
        ("models.yaml", row("models", 1, layers=-1), r"field layers: -1 is negative"),
        ("models.yaml", row("models", 1, revision="1234567"), r"field revision: .*first 7"),
        ("models.yaml", row("models", 1, commit="main"), r"field commit: 'main'"),
        ("models.yaml", row("models", 0, revision="latest"), r"field revision: 'latest'"),
        ("models.yaml", row("models", 1, kv_heads=5), r"field kv_heads: 5"),
        ("models.yaml", row("models", 1, source="hearsay"), r"field source: 'hearsay'"),
        ("models.yaml", row("models", 1, weights_are="guess"), r"field weights_are: 'guess'"),
        ("models.yaml", row("models", 1, slug="Llama 3"), r"field slug: "),
        ("models.yaml", lambda d: d["models"].append(d["models"][1]), r"field slug: is given twice"),
        ("models.yaml", lambda d: d["models"].append("x"), rf"row models\[{BEYOND}\], field slug"),
        ("models.yaml", lambda d: d.update(extra=1), r"models.yaml: 'extra' is not a section"),
        ("models.yaml", lambda d: d.pop("as_of"), r"models.yaml: the section as_of is missing"),
        ("models.yaml", lambda d: d.update(models={}), r"models must be a list"),
        ("instances.yaml", row("instances", 0, vcpu=None), r"instances.yaml, row g5.xlarge, field vcpu"),
        ("instances.yaml", row("instances", 0, accelerator="a99"), r"field accelerator: 'a99'"),
        ("instances.yaml", row("instances", 0, family="g6"), r"row g5.xlarge, field family: 'g6'"),
        ("instances.yaml", row("accelerators", 0, kind="tpu"), r"row a10g, field kind: 'tpu'"),
        ("instances.yaml", row("accelerators", 0, tp_ranks=0), r"row a10g, field tp_ranks"),
        ("instances.yaml", row("accelerators", 0, memory_mb=1), r"row a10g, field memory_mb"),
        ("suites.yaml", row("suites", 0, owner="x"), r"suites.yaml, row demo, field owner"),
        ("suites.yaml", lambda d: d["suites"][0].pop("description"), r"row demo, field description"),
        ("suites.yaml", row("suites", 0, rows=[]), r"row demo, field rows"),
        ("suites.yaml", block(seed=1), r"row demo\[1\], field seed"),
        ("suites.yaml", lambda d: d["suites"][0]["rows"][0].pop("engine"), r"field engine: is missing"),
        ("suites.yaml", block(engine_version=0.33), r"field engine_version: 0.33"),
        ("suites.yaml", block(models=["gpt-9"]), r"field models: 'gpt-9'"),
        ("suites.yaml", block(models="gpt-9"), r"field models: expected a list"),
        ("suites.yaml", block(instances={"g9.xlarge": [1]}), r"field instances: 'g9.xlarge'"),
        ("suites.yaml", block(instances={"local": [0]}), r"field instances: 'local'"),
        ("suites.yaml", block(instances=["local"]), r"field instances"),
        ("suites.yaml", block(deployment={"dtype": "q4"}), r"field deployment.dtype"),
        ("suites.yaml", block(deployment={"tp": 2}), r"field deployment.tp"),
        ("suites.yaml", block(deployment={"gpus": 2}), r"field deployment.gpus"),
        ("suites.yaml", row("suites", 0, rows=["x"]), r"row demo\[1\], field rows"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_row_and_field(folder: Path, name: str, change: Edit, says: str) -> None:
    edit(folder, name, change)
    with pytest.raises(catalog.CatalogError, match=says):
        _ = (catalog.load_suites(), catalog.models_file())


def test_a_wrong_day_and_wrong_sources_are_refused(folder: Path) -> None:
    edit(folder, "models.yaml", lambda d: d.update(as_of="yesterday"))
    with pytest.raises(catalog.CatalogError, match="as_of must be a day"):
        catalog.models_file()
    edit(folder, "models.yaml", lambda d: d.update(as_of="2026-11-21", sources=[]))
    with pytest.raises(catalog.CatalogError, match="sources must map"):
        catalog.models_file()


def test_what_is_no_yaml_or_not_there_or_runs_code_is_refused(folder: Path) -> None:
    (folder / "suites.yaml").write_text("suites: [", encoding="utf-8")
    with pytest.raises(catalog.CatalogError, match=r"suites\.yaml is not YAML"):
        catalog.load_suites()
    (folder / "suites.yaml").write_text("suites: !!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(catalog.CatalogError, match=r"suites\.yaml is not YAML"):
        catalog.load_suites()
    (folder / "suites.yaml").write_text("- demo", encoding="utf-8")
    with pytest.raises(catalog.CatalogError, match="expected the sections suites"):
        catalog.load_suites()
    (folder / "suites.yaml").unlink()
    with pytest.raises(catalog.CatalogError, match=r"suites\.yaml cannot be read: No such file"):
        catalog.load_suites()
