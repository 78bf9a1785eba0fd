"""Every source over HTTP: what counts as a release, and that a source that misbehaves is one clear error."""

import hashlib
import time
from collections.abc import Callable

import pytest

from accelbench_assets.releases import look, neuron
from accelbench_assets.releases.hub import UnknownModelError, current_commit
from accelbench_assets.releases.pypi import stable_releases
from accelbench_assets.releases.registry import VLLM_IMAGE, Registry, image_name
from accelbench_assets.releases.web import ReleaseError, fetch
from tests.releases.sources import MANIFEST, TOKEN, Running, Sources

COMMIT, OTHER = "0e9e39f249a16976918f6564b8830bc894c89659", "b968826d9c46dd6066d109eabc6255188de91218"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
CANARY = "hf_canary0123456789canary"


def test_only_stable_installable_versions_count_in_their_own_order(sources: Sources) -> None:
    sources.release(
        "0.9.2", "0.10.0", "0.33.0", "0.34.0rc1", "0.34.0.dev3", "0.33.0.post1", "1!0.1", "not-a-version"
    )
    sources.versions["0.35.0"] = [{"yanked": True}]
    sources.versions["0.36.0"] = []
    sources.versions["0.37.0"] = [{"yanked": True}, {"yanked": False}]
    found = stable_releases(sources.url)
    assert found == ("0.9.2", "0.10.0", "0.33.0", "0.33.0.post1", "0.37.0", "1!0.1")


def test_the_digest_comes_through_the_token_flow_and_one_token_serves_a_look(sources: Sources) -> None:
    digest = sources.image(VLLM_IMAGE, "v0.34.0")
    registry = Registry(sources.url)
    assert registry.digest(VLLM_IMAGE, "v0.34.0") == digest
    assert registry.digest(VLLM_IMAGE, "v0.35.0") is None
    methods = [(method, path.partition("?")[0]) for method, path, _ in sources.asked]
    manifest = f"/v2/{VLLM_IMAGE}/manifests"
    assert methods == [
        ("HEAD", f"{manifest}/v0.34.0"),
        ("GET", "/token"),
        ("HEAD", f"{manifest}/v0.34.0"),
        ("HEAD", f"{manifest}/v0.35.0"),
    ]
    assert "service=images" in sources.paths()[1]
    assert "scope=pull" in sources.paths()[1]
    assert "application/vnd.oci.image.index.v1+json" in sources.asked[0][2]["Accept"]


def test_a_plain_registry_is_asked_as_it_is_and_a_missing_digest_is_reckoned(sources: Sources) -> None:
    sources.token_flow = sources.digest_header = False
    sources.image(VLLM_IMAGE, "v0.34.0")
    found = Registry(sources.url).digest(VLLM_IMAGE, "v0.34.0")
    assert found == "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
    assert "/token" not in "".join(sources.paths())


def test_tags_are_read_page_by_page_and_not_for_ever(sources: Sources) -> None:
    for number in range(7):
        sources.image("some/image", f"v{number}")
    sources.page = 3
    assert Registry(sources.url).tags("some/image") == tuple(f"v{n}" for n in range(7))
    sources.page = 1
    for number in range(100, 160):
        sources.image("some/image", f"v{number}")
    with pytest.raises(ReleaseError, match="more than 50 pages"):
        Registry(sources.url).tags("some/image")


def test_a_registry_with_passwords_and_an_unknown_repository_say_so(sources: Sources) -> None:
    with pytest.raises(ReleaseError, match="does not know other/image"):
        Registry(sources.url).tags("other/image")
    sources.wants_password = True
    with pytest.raises(ReleaseError, match="wants credentials") as error:
        Registry(sources.url).digest(VLLM_IMAGE, "v1")
    assert "anybody may pull" in str(error.value)


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("0.29.0.1.2.0-neuronx-py314-sdk2.33.0-ubuntu26.04", "0.29.0-neuron2.33"),
        ("0.24.0.1.1.0-neuronx-py313-sdk2.32.0-ubuntu24.04", "0.24.0-neuron2.32"),
        ("0.16.0-neuronx-py312-sdk2.31.1-ubuntu24.04", "0.16.0-neuron2.31.1"),
        ("0.7.2-neuronx-py310-sdk2.24.1-ubuntu22.04", "0.7.2-neuron2.24.1"),
        ("latest", None),
        ("0.24.0-neuronx-py313-sdk2.32.0-ubuntu24.04-sha1", None),
    ],
)
def test_tags_of_the_neuron_image_name_vllm_and_sdk(tag: str, name: str | None) -> None:
    assert neuron.engine_version(tag) == name


def test_the_newest_vllm_decides_for_neuron_not_the_latest_patch_of_the_old_line(sources: Sources) -> None:
    tags = [
        "0.9.1-neuronx-py311-sdk2.26.0-ubuntu22.04",
        "0.21.0.1.0.0-neuronx-py313-sdk2.31.0-ubuntu24.04",
        "0.24.0.1.0.0-neuronx-py313-sdk2.32.0-ubuntu24.04",
        "0.24.0.1.10.0-neuronx-py313-sdk2.32.0-ubuntu24.04",
        "0.24.0.1.9.0-neuronx-py313-sdk2.32.0-ubuntu24.04",
        "0.16.0-neuronx-py312-sdk2.33.1-ubuntu24.04",
        "latest",
    ]
    sources.page = 2
    for tag in tags:
        digest = sources.image(neuron.NEURON_IMAGE, tag)
    newest = neuron.newest(sources.url)
    assert newest == neuron.NeuronRelease("0.24.0-neuron2.32", tags[3], digest)
    assert neuron.newest(sources.url, after="0.24.0-neuron2.32") is None
    assert neuron.newest(sources.url, after="0.13-neuron2.28") == newest
    sources.images[neuron.NEURON_IMAGE] = {"v1": digest}
    with pytest.raises(ReleaseError, match="has the form"):
        neuron.newest(sources.url)


def test_the_hub_is_asked_for_the_commit_alone_with_the_token_of_the_environment(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.commits[MODEL] = COMMIT
    assert current_commit(sources.url, MODEL) == COMMIT
    _, path, headers = sources.asked[-1]
    assert "expand=sha" in path
    assert "authorization" not in {name.lower() for name in headers}
    sources.gated.add(MODEL)
    with pytest.raises(UnknownModelError, match="does not show") as error:
        current_commit(sources.url, MODEL)
    assert "HF_TOKEN" in str(error.value)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    assert current_commit(sources.url, MODEL) == COMMIT
    sources.commits[MODEL] = "main"
    with pytest.raises(UnknownModelError, match="names no commit"):
        current_commit(sources.url, MODEL)


LOOKS: dict[str, Callable[[str], object]] = {
    "pypi": lambda url: stable_releases(url),
    "registry": lambda url: Registry(url).digest(VLLM_IMAGE, "v1"),
    "tags": lambda url: Registry(url).tags(VLLM_IMAGE),
    "neuron": lambda url: neuron.newest(url),
    "hub": lambda url: current_commit(url, MODEL),
}


@pytest.mark.parametrize("source", LOOKS)
def test_a_source_that_is_down_is_one_error_that_names_it(
    source: str, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    sources.down = True
    with pytest.raises(ReleaseError, match="does not answer") as error:
        LOOKS[source](sources.url)
    assert sources.url in str(error.value)
    assert CANARY not in str(error.value)
    sources.down, sources.status = False, 503
    with pytest.raises(ReleaseError, match="503"):
        LOOKS[source](sources.url)
    with Running(Sources()) as gone:
        pass
    with pytest.raises(ReleaseError, match="does not answer"):
        LOOKS[source](gone.url)


@pytest.mark.parametrize("source", [name for name in LOOKS if name != "registry"])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"releases": 3, "tags": 5, "sha": 7}', b""])
def test_an_answer_that_makes_no_sense_is_refused(source: str, body: bytes, sources: Sources) -> None:
    sources.body = body
    with pytest.raises(ReleaseError):
        LOOKS[source](sources.url)


@pytest.mark.parametrize("source", LOOKS)
@pytest.mark.parametrize(
    "url", ["ftp://host", "file:///etc/passwd", "http://user:pass1234@host", "host", "http://h:x"]
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_it(source: str, url: str) -> None:
    with pytest.raises(ReleaseError, match=r"Setting watch\.[a-z]+_url") as error:
        LOOKS[source](url)
    assert "pass1234" not in str(error.value)


def test_an_endless_answer_is_cut_off_by_size_and_a_slow_one_by_time(sources: Sources) -> None:
    sources.body = b"x" * 50_000
    with pytest.raises(ReleaseError, match="more than 4000 bytes"):
        fetch(sources.url, "It", max_bytes=4000)
    sources.drip_s = 0.02  # the whole would take two minutes
    started = time.monotonic()
    with pytest.raises(ReleaseError, match="did not finish"):
        fetch(sources.url, "It", timeout_s=0.2)
    assert time.monotonic() - started < 60


def test_a_redirect_is_followed_and_a_token_stays_with_its_host(sources: Sources) -> None:
    sent = {"Authorization": f"Bearer {TOKEN}"}
    sources.redirect_to = "/token"
    assert fetch(f"{sources.url}/moved", "It", headers=sent, method="HEAD").status == 200
    method, path, headers = sources.asked[-1]
    assert (method, path, headers.get("Authorization")) == ("HEAD", "/token", f"Bearer {TOKEN}")
    with Running(Sources()) as elsewhere:
        sources.redirect_to = f"{elsewhere.url}/token"
        assert fetch(f"{sources.url}/moved", "It", headers=sent).status == 200
        assert "Authorization" not in elsewhere.asked[-1][2]
    sources.redirect_to = "file:///etc/passwd"
    answer = fetch(f"{sources.url}/moved", "It", headers=sent)
    assert (answer.status, answer.body) == (307, b"")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://registry-1.docker.io", "some/image:v1@sha256:0"),
        ("https://public.ecr.aws", "public.ecr.aws/some/image:v1@sha256:0"),
        ("http://mirror.local:5000/", "mirror.local:5000/some/image:v1@sha256:0"),
    ],
)
def test_an_image_is_named_as_a_pod_would_pull_it(url: str, name: str) -> None:
    assert image_name(url, "some/image", "v1", "sha256:0") == name


def test_a_version_counts_once_its_image_is_there(sources: Sources) -> None:
    sources.release("0.33.0", "0.34.0", "0.35.0")
    digest = sources.image(VLLM_IMAGE, "v0.34.0")
    seen = look.vllm(sources.url, sources.url, "0.33.0")
    assert [(found.value, found.identity) for found in seen.found] == [("0.34.0", digest)]
    assert "0.35.0" in seen.notes[0]
    assert "not there yet" in seen.notes[0]
    assert look.vllm(sources.url, sources.url, "0.35.0").found == ()
    before = len(sources.asked)
    sources.release(*(f"1.{n}" for n in range(20)))
    assert look.vllm(sources.url, sources.url, "0.33.0").found == ()
    assert sum(path.startswith("/v2/") for path in sources.paths()[before:]) == look.VERSIONS_ASKED + 1


def test_one_model_the_hub_does_not_show_is_a_note_the_hub_down_an_error(sources: Sources) -> None:
    sources.commits = {MODEL: COMMIT}
    models = {"llama-3.1-8b-instruct": MODEL, "qwen3-8b": "Qwen/Qwen3-8B"}
    seen = look.model_revisions(sources.url, models)
    assert [(found.subject, found.value) for found in seen.found] == [("model:llama-3.1-8b-instruct", COMMIT)]
    assert "Qwen/Qwen3-8B" in seen.notes[0]
    assert look.model_revisions(sources.url, {}).found == ()
    sources.down = True
    with pytest.raises(ReleaseError):
        look.model_revisions(sources.url, models)
