"""What requests say and how long they are: laws, words, natural text, prefixes, templates, bodies."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from loadgen import corpus, templates, workloads
from loadgen.contents import content, shuffled, zipf
from loadgen.lengths import Law, Lengths, uniforms
from loadgen.plan import PlanError
from loadgen.prompts import NONCE_WORDS, BodyTemplate, PromptSource, body_fields, words
from loadgen.sizing import Sizing
from loadgen.source import StepSource

from .conftest import make_plan


@pytest.mark.parametrize("n_words", [1, 10, 16, 17, 300, 9000])
def test_prompts_have_the_exact_number_of_listed_words(n_words: int) -> None:
    known = set(words())
    text = PromptSource(5, n_words).text(3).decode()
    assert len(text.split(" ")) == n_words
    assert set(text.split(" ")) <= known
    assert PromptSource(5, 9000).text(3, n_words).decode().count(" ") == n_words - 1


def test_prompts_start_with_a_nonce_of_their_own() -> None:
    assert len(words()) == len(set(words())) >= 590
    source = PromptSource(5, 40)
    prompts = [source.text(index) for index in range(2000)]
    assert len({b" ".join(prompt.split()[:4]) for prompt in prompts}) == 2000
    assert prompts[:10] == [PromptSource(5, 40).text(index) for index in range(10)]
    assert PromptSource(6, 40).text(0) != prompts[0]
    assert prompts[3].startswith(source.nonce(3) + b" ")
    assert len(source.nonce(3).split()) == NONCE_WORDS


@pytest.mark.parametrize(
    ("api", "stream", "ignore_eos"), [("chat", True, True), ("completions", False, False)]
)
def test_body_holds_what_was_asked(api: str, stream: bool, ignore_eos: bool) -> None:
    fields = body_fields(api, 'mo"del', max_tokens=9, ignore_eos=ignore_eos, stream=stream)
    body = json.loads(BodyTemplate.of(fields).fill(b"one two"))
    assert (body["messages"][0]["content"] if api == "chat" else body["prompt"]) == "one two"
    assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == (
        'mo"del',
        9,
        0,
        stream,
    )
    assert body.get("ignore_eos") == (True if ignore_eos else None)
    assert body.get("min_tokens") == (9 if ignore_eos else None)
    assert body.get("stream_options") == ({"include_usage": True} if stream else None)


LAWS: list[tuple[dict[str, Any], float, float]] = [  # law, mean, relative tolerance
    ({"law": "const", "tokens": 7}, 7, 0),
    ({"law": "uniform", "low": 819, "high": 1024}, 921.5, 0.01),
    ({"law": "normal", "mean": 550, "sd": 150}, 550, 0.01),
    ({"law": "lognorm", "mu": 8.7, "sigma": 0.35, "cap": 100_000}, 6382, 0.01),
    ({"law": "empirical", "values": [1, 2, 30]}, 11, 0.03),
]


@pytest.mark.parametrize(("document", "mean", "tolerance"), LAWS)
def test_lengths_follow_their_law(document: dict[str, Any], mean: float, tolerance: float) -> None:
    law = Law.parse(document, "isl")
    drawn = np.array([law.draw(*uniforms(9, index, 2)) for index in range(20_000)])
    assert law.mean == pytest.approx(mean, rel=1e-3)
    assert drawn.mean() == pytest.approx(mean, rel=tolerance)
    assert drawn.max() <= law.largest
    assert drawn.min() >= 1
    if document["law"] == "uniform":
        assert (drawn.min(), drawn.max()) == (819, 1024)
    if document["law"] == "lognorm":
        assert np.log(drawn).std() == pytest.approx(0.35, abs=0.01)


def test_empirical_lengths_have_the_published_quantiles_and_mean() -> None:
    """The Azure conversation trace: mean 1154.7 in and 211.1 out, with p50, p90 and p99 as knots."""
    lengths = workloads.load("burst.gamma025@1").lengths
    for law, mean, quantiles in (
        (lengths.isl, 1154.7, (1020, 2734, 4142)),
        (lengths.osl, 211.1, (129, 424, 601)),
    ):
        drawn = np.array([law.draw(*uniforms(2, index, 2)) for index in range(40_000)])
        assert drawn.mean() == pytest.approx(mean, rel=0.03)
        assert np.quantile(drawn, [0.5, 0.9, 0.99]) == pytest.approx(quantiles, rel=0.04)


def test_lengths_are_a_function_of_seed_and_index() -> None:
    laws = Lengths(
        Law.parse(LAWS[3][0], "isl"), Law.parse({"law": "lognorm", "mu": 5, "sigma": 0.9, "cap": 4096}, "osl")
    )
    assert [laws.pair(7, index) for index in (0, 1, 10**6)] == [(3418, 470), (3868, 303), (6604, 128)]
    pairs = np.log(np.array([laws.pair(7, index) for index in range(5000)], dtype=float))
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"tokens": 3}, "law"),
        ({"law": "zipf"}, "isl.law"),
        ({"law": "uniform", "low": 3}, "isl.high: missing"),
        ({"law": "uniform", "low": 30, "high": 3}, "isl.low"),
        ({"law": "const", "tokens": 3, "cap": 4}, "isl.cap: unknown"),
        ({"law": "const", "tokens": 0}, "isl.tokens"),
        ({"law": "lognorm", "mu": 90, "sigma": 1, "cap": 9}, "isl.mu"),
        ({"law": "lognorm", "mu": 1, "sigma": "x", "cap": 9}, "isl.sigma"),
        ({"law": "empirical", "values": []}, "isl.values"),
        ({"law": "empirical", "knots": [[0, 5], [0.5, 4], [1, 9]]}, "isl.knots"),
        ({"law": "empirical", "knots": [[0.1, 5], [1, 9]]}, "isl.knots"),
        ({"law": "empirical", "knots": [[0, 5], [1]]}, "isl.knots"),
    ],
)
def test_a_wrong_law_is_refused_by_field(document: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Law.parse(document, "isl")


def test_corpus_reads_as_a_ring_of_plain_words() -> None:
    source = corpus.packaged()
    assert source.n_words > 130_000
    whole = source.words(0, source.n_words)
    assert re.fullmatch(rb"[\x20-\x7e\n]+", whole)
    assert b"\\" not in whole
    assert whole.split() == source.words(0, 7).split() + source.words(7, source.n_words - 7).split()
    over = source.words(source.n_words - 3, 8).split()
    assert over == whole.split()[-3:] + whole.split()[:5]
    assert len(source.words(5, source.n_words * 2 + 11).split()) == source.n_words * 2 + 11


def test_text_is_escaped_for_json() -> None:
    text = 'He said: "No\\yes",\nand \u00e9 \x07 left.'
    assert json.loads(b'"' + corpus.escaped(text.encode()) + b'"') == text


def test_packaged_templates_fill_in() -> None:
    assert len(templates.lines("reasoning.txt")) >= 60
    problems = [templates.problems(3, index).decode() for index in range(200)]
    instructions = [templates.instruction(3, index).decode() for index in range(200)]
    for text in (*problems, *instructions):
        assert text.isascii()
        assert not re.search(r"[{}]", text)
    assert len(set(problems)) == 200
    assert len(set(instructions)) > 150
    assert 100 < np.mean([len(text.split()) for text in problems]) < 700
    assert 10 < np.mean([len(text.split()) for text in instructions]) < 60


def test_every_template_fills_in_whatever_is_drawn() -> None:
    for line in (*templates.lines("reasoning.txt"), *templates.lines("instructions.txt")):
        fields = set(re.findall(r"{(\w+)}", line))
        assert fields <= {"a", "b", "c", "d", "e", "n", "p", "m", "topic", "place", "job"}, line


def test_schemas_are_strict_objects() -> None:
    for index, (name, schema) in enumerate(templates.schemas()):
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
        sent = templates.response_format(index)
        assert sent["json_schema"]["name"] == name
        assert json.loads(json.dumps(sent)) == sent


def source_of(name: str, sizing: Sizing, **changes: Any) -> StepSource:
    from loadgen.calibrate import CalibrationResult

    document = {**workloads.load(name).document, **changes}
    workload = workloads.from_document(document)
    plan = make_plan("http://127.0.0.1:1", workload)
    return StepSource(plan, workload, plan.steps[0], CalibrationResult(None, 0, [], sizing))


@pytest.mark.parametrize(
    "name", ["fixed.1k1k@1", "long.32k@1", "rag.6k@1", "shared.sys2k@1", "json.schema@1", "ix.1k1k-r80@1"]
)
def test_texts_have_the_length_that_was_asked_for(name: str) -> None:
    """Counted as the sizing says: random words at 1.1 tokens, others at 1.4, a template of 20."""
    sizing = Sizing(1.1, 1.4, 20.0)
    source = source_of(name, sizing)
    listed = {word.encode() for word in words()}
    for index in range(30):
        request = source.exchange(index, 0).request
        found = request.prompt.split()
        nonce = found[:16] if name not in ("rag.6k@1", "shared.sys2k@1") else []
        tokens = 20 + 1.4 * len(found) - 0.3 * len(nonce)
        if name in ("fixed.1k1k@1", "ix.1k1k-r80@1"):
            tokens = 20 + 1.1 * len(found)
        if name in ("rag.6k@1", "shared.sys2k@1"):
            tokens -= 0.3 * 32  # the nonces of prefix and request
        assert set(nonce) <= listed
        assert request.input_tokens is not None
        assert tokens == pytest.approx(request.input_tokens, rel=0.01, abs=4)


def test_shared_prefixes_come_first_and_unique_words_after_them() -> None:
    source = source_of("shared.sys2k@1", Sizing())
    requests = [source.exchange(index, 0).request.prompt.split(b"\n") for index in range(400)]
    groups: dict[bytes, int] = {}
    for lines in requests:
        groups[lines[0]] = groups.get(lines[0], 0) + 1
    counts = sorted(groups.values(), reverse=True)
    assert len(counts) == 8
    assert counts[0] / 400 == pytest.approx(1 / sum(1 / k for k in range(1, 9)), abs=0.08)
    prefix = {
        b"\n".join(request.split(b"\n"))[:9000] for request in (b"\n".join(lines) for lines in requests)
    }
    assert len(prefix) == 8  # 9,000 bytes lie within the prefix of 2,048 words
    assert len({b"\n".join(lines)[-1200:] for lines in requests}) == 400


def test_designed_shares_are_those_of_the_lengths() -> None:
    for name in ("shared.sys2k@1", "rag.6k@1"):
        workload = workloads.load(name)
        assert workload.prefix is not None
        designed = workload.prefix.tokens / workload.lengths.isl.mean
        assert workload.cache_share == pytest.approx(designed, abs=0.01)


def test_cold_texts_share_no_beginning() -> None:
    for name in ("long.32k@1", "json.schema@1", "spec.natural@1", "reason.natural@1", "fixed.1k1k@1"):
        source = source_of(name, Sizing())
        starts = {b" ".join(source.exchange(index, 0).request.prompt.split()[:4]) for index in range(200)}
        assert len(starts) == 200, name


def test_schema_goes_along_with_its_passage() -> None:
    source = source_of("json.schema@1", Sizing())
    names = set()
    for index in range(60):
        body = json.loads(source.exchange(index, 0).request.body)
        sent = body["response_format"]["json_schema"]
        names.add(sent["name"])
        assert f"record {sent['name']} " in body["messages"][0]["content"]
    assert len(names) == len(templates.schemas())


def test_models_are_drawn_by_their_weights() -> None:
    workload = workloads.load("multimodel.pool@1")
    plan = make_plan("http://127.0.0.1:1", workload, models=("a", "b", "c"))
    source = StepSource(plan, workload, plan.steps[0], 100)
    found = [source.exchange(index, 0).request for index in range(300)]
    assert all(json.loads(request.body)["model"] == request.model for request in found)
    counts = [sum(request.model == name for request in found) for name in "abc"]
    assert min(counts) > 70
    assert [zipf(3, 1.0)(at) for at in (0.0, 0.54, 0.55, 0.81, 0.82, 0.999)] == [0, 0, 1, 1, 2, 2]


def test_sampling_and_api_reach_the_body() -> None:
    body = json.loads(
        source_of("spec.natural@1", Sizing(), sampling={"temperature": 0.8}).exchange(0, 0).request.body
    )
    assert (body["temperature"], body["top_p"]) == (0.8, 1)
    assert "ignore_eos" not in body


def test_a_shuffle_is_a_permutation_and_golden() -> None:
    assert list(shuffled(8, 5)) == list(shuffled(8, 5))
    assert sorted(shuffled(1000, 6)) == list(range(1000))
    assert list(shuffled(1000, 6)) != list(shuffled(1000, 7))


def test_long_prompts_are_built_lazily() -> None:
    source = source_of("long.128k@1", Sizing(1.0, 1.3))
    source.build()
    assert 40 < len(source._built) < 120  # 64 MiB of bodies and prompts
    assert len(source.exchange(5000, 0).request.prompt.split()) > 90_000


def test_content_for_sessions_or_missing_data_is_not_guessed() -> None:
    workload = workloads.load("prd.chat@1")
    with pytest.raises(PlanError, match=r"prd.chat@1: it needs ShareGPT .* with --dataset FILE"):
        source_of("prd.chat@1", Sizing())
    with pytest.raises(AssertionError):
        content(workload, 1, Sizing(), rows=None, trace=None)
