"""DuckDB text of the portable subset as PostgreSQL text.

Belongs here: the transpiler and the rules of the subset. sqlglot translates but does not validate: constructs
it would pass through wrongly or silently change are refused here, and a test runs every view on both engines.
Does not belong here: running SQL.

The subset: select, joins, CTEs, ``row_number``, ``rank``, ``dense_rank`` and aggregates over windows (named ones
too), aggregates with ``filter``, ``case``, ``coalesce``, ``nullif``, ``concat``, casts to double and to decimals with
a scale. Division only by ``nullif(…, 0)``; ordering says nulls first or last when a column can be null.
"""

from __future__ import annotations

from typing import Any

from accelbench_assets.errors import AccelBenchError


class NotPortableError(AccelBenchError):
    """A query uses what does not mean the same on DuckDB and PostgreSQL; the text names it."""


def to_postgres(text: str) -> str:
    """*text* (DuckDB) for PostgreSQL. Raises ``NotPortableError`` naming the construct outside the subset."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import ErrorLevel, SqlglotError

    refused: tuple[tuple[type, str], ...] = (
        (exp.ArgMax, "arg_max"),
        (exp.ArgMin, "arg_min"),
        (exp.AnyValue, "any_value"),
        (exp.TryCast, "try_cast"),
        (exp.ApproxQuantile, "approx_quantile"),
        (exp.Qualify, "qualify"),
        (exp.JSONExtract, "JSON access"),
        (exp.JSONExtractScalar, "JSON access"),
    )
    try:
        tree = sqlglot.parse_one(text, dialect="duckdb")
        for node in tree.walk():
            if isinstance(node, exp.Star) and any(node.args.values()):
                raise NotPortableError("The query uses * exclude or * replace, which PostgreSQL has not.")
            for kind, name in refused:
                if isinstance(node, kind):
                    raise NotPortableError(f"The query uses {name}, which is outside the portable subset.")
            if isinstance(node, exp.Group) and node.args.get("all"):
                raise NotPortableError("The query uses group by all, which PostgreSQL has not.")
            if isinstance(node, exp.DataType) and node.is_type("decimal") and _scale(node) in (None, "3"):
                raise NotPortableError("The query casts to decimal without a scale: DuckDB keeps 3 digits.")
            if isinstance(node, exp.Round) and node.args.get("decimals") is not None:
                raise NotPortableError("The query rounds to digits, which PostgreSQL has not for double.")
            if isinstance(node, exp.Div) and not _safe_divisor(node.expression):
                raise NotPortableError(
                    f"The query divides by {node.expression.sql()} without nullif: PostgreSQL would raise."
                )
            if isinstance(node, exp.Anonymous):
                raise NotPortableError(
                    f"The query uses {node.name}, which is not known to mean the same on PostgreSQL."
                )
        return tree.sql(dialect="postgres", unsupported_level=ErrorLevel.RAISE, pretty=True)
    except SqlglotError as error:
        raise NotPortableError(f"The query is not portable: {str(error).splitlines()[0]}") from None


def _scale(node: Any) -> str | None:
    """Digits after the point of a decimal type; the parser fills in DuckDB's 3 where none are written."""
    return node.expressions[1].name if len(node.expressions) > 1 else None


def _safe_divisor(node: object) -> bool:
    from sqlglot import exp

    if isinstance(node, exp.Paren):
        return _safe_divisor(node.this)
    if isinstance(node, exp.Literal):
        return float(node.name) != 0
    return isinstance(node, exp.Nullif)
