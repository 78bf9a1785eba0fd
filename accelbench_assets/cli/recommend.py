"""``accelbench recommend``: which instance, how many ranks and replicas, what it costs, and the arithmetic.

Belongs here: flags and the names they may take. Does not belong here: arithmetic (``sizing``), which price counts
(``pricing.offers``), how the answer is shown (``recommendation``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from accelbench_assets.cli.options import (
    AsOfOption,
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    LimitOption,
    QuietOption,
    chosen,
    day_of,
    near,
)
from accelbench_assets.cli.output import write_json
from accelbench_assets.cli.recommendation import document, print_csv, print_tables
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from accelbench_assets.pricing.offers import PriceBook
    from accelbench_assets.sizing.money import Price
    from partitions.rows import InstanceRow, ModelRow

PRESETS = {"chat": "prd.chat@1", "rag": "rag.6k@1", "code": "azure23.code@1"}
LISTS = ("measured", "estimated")


def recommend(
    model: Annotated[str, typer.Option("--model", help="Slug or id of a model of the catalog.")],
    instance: Annotated[
        str | None, typer.Option("--instance", help="Only this instance type or family.")
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option("--slo", help=f"ttft=MS,tpot=MS, or {', '.join(PRESETS)}, or a workload's id."),
    ] = None,
    rps: Annotated[float | None, typer.Option("--rps", help="Requests per second to carry.")] = None,
    isl: Annotated[int, typer.Option("--isl", help="Input tokens of a request.")] = 1024,
    osl: Annotated[int, typer.Option("--osl", help="Output tokens of a request.")] = 256,
    max_usd_per_month: Annotated[
        float | None, typer.Option("--max-usd-per-month", help="Leave out what costs more.")
    ] = None,
    quantization: Annotated[
        str,
        typer.Option("--quantization", help="auto: lower only where needed; any: the cheapest; or one."),
    ] = "auto",
    max_model_len: Annotated[
        int | None,
        typer.Option("--max-model-len", help="Context to serve; by default enough for the lengths."),
    ] = None,
    kv_cache_dtype: Annotated[str, typer.Option("--kv-cache-dtype", help="auto or fp8.")] = "auto",
    region: Annotated[
        str | None, typer.Option("--region", help="Region of the prices (default: the setting).")
    ] = None,
    tier: Annotated[
        str,
        typer.Option(
            "--tier",
            help="on_demand, reserved_1y, reserved_3y, savings_1y, savings_3y, spot or capacity_block.",
        ),
    ] = "on_demand",
    payment: Annotated[
        str | None,
        typer.Option(
            "--payment", help="no_upfront, partial_upfront or all_upfront; by default the cheapest of them."
        ),
    ] = None,
    as_of: AsOfOption = None,
    origin: Annotated[
        str | None, typer.Option("--origin", help="Only the list measured, or estimated (CSV has one list).")
    ] = None,
    limit: LimitOption = 15,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What to rent for a model: measured results first, then estimates, each in order of cost at the objective.

    Estimates are a roofline with stated intervals and say how many measured runs stand behind them. Prices are the
    lake's latest, else the packaged ones (on demand in us-east-1); what has none comes last, with the reason. JSON is
    one object: ask, prices, measured, estimated, left_out (reason, nearest remedies), arithmetic.
    """
    format_ = chosen(fmt, as_json)
    if origin is not None and origin not in LISTS:
        raise UsageError(f"--origin: {origin!r} is not one of {', '.join(LISTS)}.")
    from accelbench_assets.pricing.offers import Wish, price_book
    from accelbench_assets.sizing.ask import Ask
    from accelbench_assets.sizing.measured import calibration_of, rank, read_steps
    from accelbench_assets.sizing.recommend import recommend as answer

    wish = Wish(region or STATE.settings.region, tier, payment, day_of("--as-of", as_of))
    ttft_ms, tpot_ms = objective(slo)
    ask = Ask(
        model=_model(model),
        instances=_instances(instance),
        isl=isl,
        osl=osl,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        rps=rps,
        max_usd_per_month=max_usd_per_month,
        quantization=_precision(quantization),
        kv_cache_dtype=kv_cache_dtype,
        max_model_len=max_model_len,
    )
    lake = STATE.lake()
    book = price_book(lake.storage, wish)
    prices = _prices(book)
    steps = read_steps(lake)
    found = answer(ask, prices, calibration_of(steps))
    measured = rank(steps, ask, prices)
    if format_ is Format.json:
        write_json(document(found, measured, origin, book))
    elif format_ is Format.csv:
        print_csv(found, measured, origin or "estimated", book)
    else:
        print_tables(found, measured, origin, limit, book)


def objective(slo: str | None) -> tuple[float | None, float | None]:
    """(ttft_ms, tpot_ms) of ``--slo``: nothing, ``ttft=…,tpot=…``, a preset, or a workload's own."""
    if slo is None:
        return None, None
    if "=" in slo:
        from accelbench_assets.sizing.ask import parse_slo

        return parse_slo(slo)
    from loadgen.workloads import load, names

    name = PRESETS.get(slo, slo)
    if name not in names():
        raise UsageError(
            f"--slo: {slo!r} is no preset and no workload. {near(slo, [*PRESETS, *names()])}",
            hint="Or write ttft=1000,tpot=50 in milliseconds.",
        )
    found = load(name).slo
    if not found:
        raise UsageError(f"--slo: workload {name} has no objective.")
    return found.get("ttft_ms"), found.get("tpot_ms")


def _model(wanted: str) -> ModelRow:
    from accelbench_assets.sizing.ask import find_model, known_names

    if (found := find_model(wanted)) is not None:
        return found
    raise UsageError(f"--model: {wanted!r} is not in the catalog. {near(wanted, known_names()[0])}")


def _instances(wanted: str | None) -> tuple[InstanceRow, ...]:
    from accelbench_assets.sizing.ask import find_instances, known_names

    if found := find_instances(wanted):
        return found
    raise UsageError(f"--instance: {wanted!r} is no instance type. {near(str(wanted), known_names()[1])}")


def _precision(wanted: str) -> str:
    from accelbench_assets.sizing.ask import precision_words
    from accelbench_assets.sizing.weights import ALIASES

    words = [*precision_words(), *ALIASES]
    if wanted not in words:
        raise UsageError(f"--quantization: {wanted!r} is not known. {near(wanted, words)}")
    return wanted


def _prices(book: PriceBook) -> Callable[[str], Price]:
    from accelbench_assets.sizing.money import Price

    def price(instance_type: str) -> Price:
        offer = book.offer(instance_type)
        return Price(offer.usd_per_hour, offer.missing_reason, offer.as_of, offer.source, offer.terms)

    return price
