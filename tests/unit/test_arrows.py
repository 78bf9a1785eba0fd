"""The walls of the house: who may import whom, read from the import statements themselves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("accelbench_assets", "loadgen", "partitions")
DOMAIN = (
    *("bench", "engines", "launch", "pricing", "models", "instances", "lake", "sqlkit", "reports"),
    *("telemetry", "importers", "budget", "notify", "releases", "sizing"),
)
FACES = ("cli", "api", "defs")

# Third-party library -> the only places (path prefixes) that may import it.
RESERVED = {
    "dagster": ("accelbench_assets/defs/", "accelbench_assets/definitions.py"),
    "kubernetes": ("accelbench_assets/launch/",),
    "boto3": ("accelbench_assets/lake/", "accelbench_assets/pricing/", "accelbench_assets/instances/"),
    "botocore": ("accelbench_assets/lake/", "accelbench_assets/pricing/", "accelbench_assets/instances/"),
    "typer": ("accelbench_assets/cli/",),
    "psycopg": ("accelbench_assets/sqlkit/", "accelbench_assets/budget/"),
}
# Only the schema, the plan, the workloads and the version of the generator are anybody else's business.
LOADGEN_DOORS = {
    *("loadgen", "loadgen.plan", "loadgen.samples", "loadgen.workloads"),
    *("loadgen.steady", "loadgen.schedule", "loadgen.capacity", "loadgen.scrape"),
}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(relative: str) -> str:
    parts = relative.split("/")
    return parts[1] if parts[0] == "accelbench_assets" and len(parts) > 2 else parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_module_keeps_to_its_arrows(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    here = room(relative)
    for name in imports(path):
        top = name.split(".")[0]
        if top in RESERVED:
            assert relative.startswith(RESERVED[top]), f"{relative} imports {name}"
        if top == "dagster_k8s":
            assert here == "defs", f"{relative} imports {name}"
        if relative.startswith(("loadgen/", "partitions/")):
            assert top not in set(PACKAGES) - {here}, f"{relative} imports {name}"
        if name.startswith("accelbench_assets."):
            target = name.split(".")[1]
            if here in DOMAIN:
                assert target not in (*FACES, "definitions"), f"{relative} imports {name}"
            if here in FACES:
                assert target not in set(FACES) - {here}, f"{relative} imports {name}"
            if here == "cli":
                assert target != "definitions", f"{relative} imports {name}"
        if top == "loadgen" and here != "loadgen" and not relative.startswith("loadgen/"):
            door = name if name in LOADGEN_DOORS else name.rpartition(".")[0]
            assert door in LOADGEN_DOORS, f"{relative} imports {name}, which is the generator's own"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_belongs_there_and_stays_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path} opens without a docstring"
    assert len(text.splitlines()) <= 400, f"{path} has outgrown its contract"


@pytest.mark.parametrize(
    "package", sorted({p.parent for p in modules()}), ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_package_states_its_contract(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(docstring) > 60, f"{package}/__init__.py says too little of what belongs there"
