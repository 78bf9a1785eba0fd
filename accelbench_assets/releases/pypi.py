"""vLLM's releases on the package index.

Belongs here: which versions are stable and can be installed, in order.
Does not belong here: whether an image of a version exists (``registry``), what follows (``follow``).
"""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from accelbench_assets.releases.web import ReleaseError, checked, fetch

WHAT = "The package index"


def stable_releases(pypi_url: str, project: str = "vllm") -> tuple[str, ...]:
    """Stable versions of *project*, oldest first (PEP 440): no pre-, dev- or local release, none without a file that
    is not yanked.

    Raises ``ReleaseError``.
    """
    answer = fetch(f"{checked(pypi_url, 'watch.pypi_url')}/pypi/{project}/json", WHAT)
    if answer.status != 200:
        raise ReleaseError(f"{WHAT} at {pypi_url} answered {answer.status} for {project}.")
    releases = answer.document(WHAT).get("releases")
    if not isinstance(releases, dict):
        raise ReleaseError(f"{WHAT} at {pypi_url} lists no releases of {project}.")
    found: set[Version] = set()
    for text, files in releases.items():
        try:
            version = Version(text)
        except InvalidVersion:
            continue
        usable = isinstance(files, list) and any(isinstance(f, dict) and not f.get("yanked") for f in files)
        if usable and not version.is_prerelease and version.local is None:
            found.add(version)
    return tuple(str(version) for version in sorted(found))
