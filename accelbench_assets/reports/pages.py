"""Report pages as people write them: Markdown prose with named SQL fences.

Belongs here: reading ``reports/pages/*.md``. A fence opened by ```` ```sql name ```` is a query, ``${name}``
inside a query stands for an earlier one in parentheses; the rest is prose, in which raw HTML is text.
Does not belong here: running the queries (``data``), page layout (``reports/templates``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelbench_assets.errors import AccelBenchError

_REFERENCE = re.compile(r"\$\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: queries by name, references resolved, in the order written; and its prose as safe HTML."""

    name: str
    queries: Mapping[str, str]
    prose_html: str


def read_page(path: Path) -> Page:
    """Read a page; ``AccelBenchError`` for a fence without a name or a reference to an unknown query."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False})
    prose, queries = [], dict[str, str]()
    for token in markdown.parse(path.read_text(encoding="utf-8")):
        words = token.info.split() if token.type == "fence" else []
        if words[:1] != ["sql"]:
            prose.append(token)
            continue
        if len(words) != 2 or words[1] in queries:
            raise AccelBenchError(f"{path.name}: an SQL fence needs a name of its own: ```sql name.")
        queries[words[1]] = _resolve(token.content.strip(), queries, path.name)
    return Page(path.stem, queries, markdown.renderer.render(prose, markdown.options, {}))


def _resolve(sql: str, earlier: Mapping[str, str], page: str) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[1] not in earlier:
            raise AccelBenchError(f"{page}: ${{{match[1]}}} does not name an earlier query of the page.")
        return f"({earlier[match[1]]})"

    return _REFERENCE.sub(replace, sql)
