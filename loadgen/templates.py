"""Written prompts: instructions, maths and science problems, questions about documents, records to fill.

Belongs here: the packaged templates (``workloads/*.txt``), filling them in from a request's draw, the JSON
schemas. Does not belong here: openings, lengths, passages (``contents``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from loadgen.lengths import uniforms
from loadgen.schedule import child_seed

_T = TypeVar("_T")
_FOLDER = Path(__file__).parent / "workloads"
_TOPICS = (
    "remote work", "solar power", "public transport", "machine translation", "urban gardening", "data privacy",
    "electric cars", "open source software", "vaccination", "inflation", "coral reefs", "chess openings",
    "space telescopes", "coffee roasting", "graph databases", "minimum wages", "recycling", "sleep", "map making",
    "working with legacy code",
)  # fmt: skip
_PLACES = (
    "Lisbon", "Kyoto", "Nairobi", "Montevideo", "Tromso", "Hanoi", "Marrakesh", "Wellington", "Tbilisi", "Oaxaca",
    "Ljubljana", "Halifax",
)  # fmt: skip
_JOBS = (
    "nurse", "carpenter", "data analyst", "teacher", "bus driver", "marine biologist", "accountant", "baker",
    "site engineer", "librarian", "translator", "bicycle mechanic",
)  # fmt: skip
_PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
_QUESTIONS = (
    "What is the main point of document {n}, and which sentence supports it best?",
    "Which statements of the documents contradict each other? Quote them.",
    "Summarise all documents in {m} words and name what they have in common.",
    "What do the documents say about duty? Answer only from the text.",
    "List up to {n} facts from the documents, each with the number of its document.",
    "Who acts in these documents, and what do they want? If the text does not say, say so.",
    "Which document would interest a historian most, and why?",
    "Write {n} questions that can be answered from the documents alone, with the answers.",
)
_PROBLEMS = (3, 16)  # parts of a problem sheet


@lru_cache(maxsize=4)
def lines(name: str) -> tuple[str, ...]:
    """The templates of a packaged file, without its comments."""
    text = (_FOLDER / name).read_text(encoding="ascii")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def _pick(choices: Sequence[_T], at: float) -> _T:
    return choices[int(at * len(choices))]


def instruction(seed: int, index: int) -> bytes:
    """A short instruction of 10 to 40 words."""
    which, topic, place, job, n, m = uniforms(child_seed(seed, "instruction"), index, 6)
    filled = _pick(lines("instructions.txt"), which).format(
        topic=_pick(_TOPICS, topic),
        place=_pick(_PLACES, place),
        job=_pick(_JOBS, job),
        n=3 + int(n * 8),
        m=20 * (2 + int(m * 9)),
    )
    return filled.encode()


def problems(seed: int, index: int) -> bytes:
    """A sheet of 3 to 16 maths and science problems, about 130 to 700 words' worth of tokens."""
    seed = child_seed(seed, "problems")
    listed, (count,) = lines("reasoning.txt"), uniforms(seed, index, 1)
    parts = ["Solve the following problems. Show your reasoning, and give every result on a line of its own."]
    for part in range(1, 1 + _PROBLEMS[0] + int(count * (_PROBLEMS[1] - _PROBLEMS[0] + 1))):
        which, a, b, c, d, e, n, p = uniforms(child_seed(seed, "part", part), index, 8)
        values = {"a": 11 + int(a * 39), "b": 11 + int(b * 39), "d": 11 + int(d * 39)}
        values |= {"c": 3 + int(c * 7), "e": 51 + int(e * 49), "n": 5 + int(n * 8), "p": _pick(_PRIMES, p)}
        parts.append(f"({part}) {_pick(listed, which).format(**values)}")
    return "\n".join(parts).encode()


def question(draws: Sequence[float]) -> bytes:
    """A question about documents."""
    text = _pick(_QUESTIONS, draws[0])
    return text.format(n=2 + int(draws[1] * 4), m=20 * (2 + int(draws[2] * 5))).encode()


def _record(**fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


@lru_cache(maxsize=1)
def schemas() -> tuple[tuple[str, dict[str, Any]], ...]:
    """(name, JSON schema) of the records a passage is read into: flat, nested, lists, enumerations, bounds."""
    text, whole = {"type": "string", "maxLength": 200}, {"type": "integer", "minimum": 0, "maximum": 100_000}
    mood = {"type": "string", "enum": ["positive", "neutral", "negative"]}
    person = _record(name=text, role=text)
    return (
        ("summary", _record(title=text, summary=text, mood=mood)),
        ("people", _record(people={"type": "array", "items": person, "minItems": 1, "maxItems": 6})),
        (
            "figures",
            _record(figures={"type": "array", "items": _record(what=text, value=whole), "maxItems": 6}),
        ),
        ("verdict", _record(is_fiction={"type": "boolean"}, confidence={"type": "number"}, reason=text)),
        (
            "scene",
            _record(place=text, period=text, weather={"type": ["string", "null"]}, actors=_record(main=text)),
        ),
        ("keywords", _record(keywords={"type": "array", "items": text, "minItems": 3, "maxItems": 10})),
        (
            "argument",
            _record(claim=text, support={"type": "array", "items": text, "maxItems": 4}, counter=text),
        ),
        (
            "questions",
            _record(items={"type": "array", "maxItems": 4, "items": _record(question=text, answer=text)}),
        ),
    )


def extraction(schema: int) -> bytes:
    """The task that goes with a schema."""
    name, document = schemas()[schema]
    fields = ", ".join(document["properties"])
    return f"Read the passage and answer with a JSON record {name} that has the fields {fields}. Passage:".encode()


def response_format(schema: int) -> dict[str, Any]:
    """The ``response_format`` field for a schema."""
    name, document = schemas()[schema]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": document, "strict": True}}
