"""A container registry (v2 API), asked without credentials: digests and tags of public images.

Belongs here: the token flow, ``Registry.digest`` and ``Registry.tags``.
Does not belong here: which image an engine needs (``engines``), pulling anything.

A registry that wants a token says where in ``WWW-Authenticate``; it is fetched anonymously, kept in memory for the
look at hand and never shown. A plain registry is asked as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from urllib.parse import urlencode, urljoin, urlsplit

from accelbench_assets.releases.web import Answer, ReleaseError, checked, fetch, shown

VLLM_IMAGE = "vllm/vllm-openai"
WHAT = "The image registry"
MAX_PAGES = 50
_PAGE = 1000
_DOCKER_HUB = ("registry-1.docker.io", "index.docker.io", "docker.io")
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"', re.I)
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?', re.I)


def vllm_tag(version: str) -> str:
    """The tag of vLLM's image of *version*."""
    return f"v{version}"


def image_name(registry_url: str, repository: str, tag: str, digest: str) -> str:
    """The image as a pod names it, by tag and digest; Docker Hub, the default of every runtime, is not named."""
    host = urlsplit(registry_url).netloc
    prefix = "" if host in _DOCKER_HUB else f"{host}/"
    return f"{prefix}{repository}:{tag}@{digest}"


class Registry:
    """One registry for the time of one look. ``setting`` names where its address comes from."""

    def __init__(self, url: str, setting: str = "watch.registry_url") -> None:
        self._url, self._setting = checked(url, setting), setting
        self._tokens: dict[str, str] = {}

    def digest(self, repository: str, tag: str) -> str | None:
        """``sha256:…`` of what *tag* names (the index, where there is one), or ``None`` if there is no such tag.

        Raises ``ReleaseError``.
        """
        headers = {"Accept": ", ".join(_MANIFESTS)}
        path = f"/v2/{repository}/manifests/{tag}"
        answer = self._ask(repository, path, "HEAD", headers)
        if answer.status == 404:
            return None
        self._expect_200(answer, repository)
        said = answer.headers.get("Docker-Content-Digest") or ""
        if not _DIGEST.fullmatch(said):  # optional in the API: then it is the hash of the manifest's bytes
            answer = self._ask(repository, path, "GET", headers)
            self._expect_200(answer, repository)
            said = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        return said

    def tags(self, repository: str) -> tuple[str, ...]:
        """Every tag of *repository*, as listed. Raises ``ReleaseError``, also beyond ``MAX_PAGES`` pages."""
        return tuple(tag for page in self._pages(repository) for tag in page)

    def _pages(self, repository: str) -> Iterator[list[str]]:
        path = f"/v2/{repository}/tags/list?n={_PAGE}"
        for _ in range(MAX_PAGES):
            answer = self._ask(repository, path, "GET", {"Accept": "application/json"})
            self._expect_200(answer, repository)
            tags = answer.document(WHAT).get("tags") or []  # null in a repository without a tag
            if not isinstance(tags, list):
                raise ReleaseError(f"{WHAT} at {self._url} gave no list of tags for {repository}.")
            yield [tag for tag in tags if isinstance(tag, str)]
            following = _NEXT.search(answer.headers.get("Link") or "")
            if following is None:
                return
            path = self._on_this_host(urljoin(answer.url, following[1]))
        raise ReleaseError(
            f"{WHAT} at {self._url} lists the tags of {repository} on more than {MAX_PAGES} pages."
        )

    def _on_this_host(self, url: str) -> str:
        """The path of *url*: the registry's own address stays the one that is asked."""
        parts = urlsplit(url)
        prefix = urlsplit(self._url).path
        path = parts.path.removeprefix(prefix) if prefix else parts.path
        return f"{path}?{parts.query}" if parts.query else path

    def _ask(self, repository: str, path: str, method: str, headers: dict[str, str]) -> Answer:
        token = self._tokens.get(repository)
        answer = self._once(path, method, headers, token)
        if answer.status == 401 and (challenge := answer.headers.get("WWW-Authenticate")):
            token = self._tokens[repository] = self._token(challenge, repository)
            answer = self._once(path, method, headers, token)
        return answer

    def _once(self, path: str, method: str, headers: dict[str, str], token: str | None) -> Answer:
        own = {"Authorization": f"Bearer {token}"} if token else {}
        return fetch(f"{self._url}{path}", WHAT, method=method, headers={**headers, **own})

    def _token(self, challenge: str, repository: str) -> str:
        scheme, _, rest = challenge.partition(" ")
        given = {name.lower(): value for name, value in _PARAMETER.findall(rest)}
        realm = given.get("realm", "")
        if scheme.lower() != "bearer" or not realm:
            raise ReleaseError(
                f"{WHAT} at {self._url} wants credentials for {repository}.",
                hint="Only images that anybody may pull are watched.",
            )
        if urlsplit(self._url).scheme == "https" and urlsplit(realm).scheme != "https":
            raise ReleaseError(f"{WHAT} at {self._url} hands out tokens without encryption.")
        query = {
            "service": given.get("service"),
            "scope": given.get("scope") or f"repository:{repository}:pull",
        }
        asked = urlencode({name: value for name, value in query.items() if value})
        checked(realm, self._setting)  # its trailing slash counts: only checked
        answer = fetch(f"{realm}{'&' if urlsplit(realm).query else '?'}{asked}", WHAT)
        if answer.status != 200:
            raise ReleaseError(f"{WHAT} at {shown(realm)} gave no token ({answer.status}) for {repository}.")
        document = answer.document(WHAT)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isprintable() or " " in token:
            raise ReleaseError(f"{WHAT} at {shown(realm)} gave no token for {repository}.")
        return token

    def _expect_200(self, answer: Answer, repository: str) -> None:
        if answer.status == 200:
            return
        reasons = {401: "refuses", 403: "refuses", 404: "does not know"}
        verb = reasons.get(answer.status, f"answered {answer.status} for")
        raise ReleaseError(f"{WHAT} at {self._url} {verb} {repository}.")
