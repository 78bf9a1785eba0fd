"""``accelbench models list | show``: what models are, from the package or from the hub.

Belongs here: choosing a model, printing its facts and how old they are. Does not belong here: the facts (``models``,
``partitions``), sizing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelbench_assets.cli.options import (
    DebugOption,
    Format,
    FormatOption,
    JsonOption,
    QuietOption,
    chosen,
    near,
)
from accelbench_assets.cli.output import Column, console, emit, number, write_json
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from partitions.catalog import ModelRow

app = typer.Typer(help="What models are: list, show.", no_args_is_help=True, rich_markup_mode=None)

COLUMNS = (
    Column("slug", "model"),
    Column("parameters_b", "B param.", "rate"),
    Column("active_b", "B active", "rate", keep=4),
    Column("attention", "attention", keep=3),
    Column("experts_text", "experts", keep=5),
    Column("quantization", "weights", keep=2),
    Column("weight_gib", "GiB", "rate"),
    Column("kv_kib_per_token", "KV KiB/token", "rate", keep=1),
    Column("max_position_embeddings", "context", "int", keep=6),
    Column("gated", "gated", keep=7),
    Column("license", "license", keep=8),
)
FIELDS = (
    *("slug", "model_id", "revision", "architecture", "parameters", "active_parameters"),
    *("layers", "hidden_size", "attention_heads", "kv_heads", "head_dim", "attention_kind"),
    *("full_attention_layers", "sliding_window"),
    *("experts", "experts_per_token", "vocab_size", "max_position_embeddings", "dtype", "quantization"),
    *("weight_bytes", "weights_are", "kv_bytes_per_token", "gated", "license", "origin", "as_of", "age_days"),
    *("fetched_at", "source", "notes"),
)
GIB, KIB = 1024**3, 1024


@app.command("list")
def list_models(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only models whose name holds this.")
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the packaged models. Needs no network."""
    from accelbench_assets.models.facts import packaged_age
    from partitions.catalog import load_models

    format_ = chosen(fmt, as_json)
    wanted = (text or "").lower()
    rows = [
        _packaged(row)
        for row in load_models().values()
        if wanted in row.slug or wanted in row.model_id.lower()
    ]
    emit([_presented(row) for row in rows], COLUMNS, format_, fields=FIELDS, empty="No model matches.")
    if format_ is Format.table and rows:
        STATE.note(f"{len(rows)} packaged models, {packaged_age()}. `accelbench models show M` shows one.")


@app.command("show")
def show_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A packaged model's name, or ORGANISATION/NAME of the hub.")
    ],
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the hub; gated models need HF_TOKEN in the environment.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="With --refresh: branch, tag or commit. Default: the pinned one."),
    ] = None,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a model is: shape, attention, experts, sizes. From the package, or with --refresh from the hub."""
    from accelbench_assets.models.facts import packaged_age

    format_ = chosen(fmt, as_json)
    if revision is not None and not refresh:
        raise UsageError("--revision is of the hub: give --refresh as well.")
    row = packaged(model)
    if refresh:
        document = _live(model, row, revision)
    elif row is not None:
        document = {**_packaged(row), "contradictions": []}
    else:
        raise UsageError(f"{model!r} is no packaged model. {_others(model)}", hint=_hint(model))
    if format_ is Format.json:
        write_json(document)
        return
    if format_ is Format.csv:
        emit([document], COLUMNS, format_, fields=FIELDS)
        return
    _print(document)
    if document["origin"] == "package":
        STATE.note(f"Packaged {packaged_age()}; --refresh asks the hub.")
    for one in document["contradictions"]:
        STATE.warn(f"{one['field']}: {one['live']} on the hub, {one['packaged']} in the package.")


def packaged(name: str) -> ModelRow | None:
    """The packaged model of this slug or id, whatever the case; ``None`` if there is none."""
    from partitions.catalog import load_models

    wanted = name.strip().lower()
    return next((r for r in load_models().values() if wanted in (r.slug, r.model_id.lower())), None)


def _others(name: str) -> str:
    from partitions.catalog import load_models

    return near(name.split("/")[-1], list(load_models()))


def _hint(name: str) -> str:
    if "/" in name:
        return f"`accelbench models show {name} --refresh` asks the hub."
    return "`accelbench models list` lists them; any other is ORGANISATION/NAME with --refresh."


def _packaged(row: ModelRow) -> dict[str, Any]:
    from accelbench_assets.models.facts import packaged_age, packaged_record

    age = packaged_age()
    return {
        **packaged_record(row),
        "slug": row.slug,
        "full_attention_layers": row.layers
        if row.full_attention_layers is None
        else row.full_attention_layers,
        "weights_are": row.weights_are,
        "origin": "package",
        "as_of": age.as_of,
        "age_days": age.days,
        "notes": [row.note] if row.note else [],
        "layers_text": _layers_text(row),
    }


def _layers_text(row: ModelRow) -> str:
    if row.full_attention_layers is None:
        return f"{row.layers} full"
    windowed = row.layers - row.full_attention_layers
    return f"{row.full_attention_layers} full, {windowed} window of {row.sliding_window or 0:,}"


def _live(model: str, row: ModelRow | None, revision: str | None) -> dict[str, Any]:
    from accelbench_assets.models.live import contradictions, look_up, slug_of

    found = look_up(
        row.model_id if row else model,
        hub_url=STATE.settings.watch.hub_url,
        revision=revision or (row.commit if row else None),
    )
    # Facts of another revision may well differ: only the pinned one can contradict.
    same = row is not None and found.documents.commit == row.commit
    return {
        **found.record(),
        "slug": row.slug if row else slug_of(found.model_id),
        "full_attention_layers": found.config.layers.full,
        "weights_are": found.documents.weights.how,
        "origin": "hub",
        "as_of": found.fetched_at.date().isoformat(),
        "age_days": 0,
        "notes": list(found.notes),
        "layers_text": str(found.config.layers),
        "contradictions": [
            {"field": one.field, "live": one.live, "packaged": one.packaged}
            for one in (contradictions(found, row) if row is not None and same else [])
        ],
    }


def _presented(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the cells that a table shows in other units."""
    experts = f"{row['experts_per_token']} of {row['experts']}" if row["experts"] else None
    return {
        **row,
        "parameters_b": _per(row["parameters"], 1e9),
        "active_b": _per(row["active_parameters"], 1e9) if row["experts"] else None,
        "attention": row["attention_kind"] + ("+window" if row["sliding_window"] else ""),
        "experts_text": experts,
        "weight_gib": _per(row["weight_bytes"], GIB),
        "kv_kib_per_token": _per(row["kv_bytes_per_token"], KIB),
    }


def _per(value: Any, unit: float) -> float | None:
    return None if value is None else float(value) / unit


def _print(row: dict[str, Any]) -> None:
    """One fact a line; what is not known is said."""
    from accelbench_assets.instances.age import Age

    shown = _presented(row)
    weights = shown["weight_gib"]
    heads = f"{row['attention_heads'] or '-'} heads, {row['kv_heads'] or '-'} of KV, width {row['head_dim'] or '-'}"
    lines = [
        ("model", f"{row['model_id']} at {row['revision']}"),
        ("name here", row["slug"]),
        ("architecture", row["architecture"]),
        ("parameters", _count(row["parameters"], 1e9, "B")),
        ("active", _count(row["active_parameters"], 1e9, "B") if row["experts"] else "all"),
        ("layers", f"{row['layers']}: {row['layers_text']}; hidden size {row['hidden_size']:,}"),
        ("attention", f"{row['attention_kind']}; {heads}"),
        ("experts", shown["experts_text"] or "none"),
        ("vocabulary", f"{row['vocab_size']:,}" if row["vocab_size"] else None),
        ("context", f"{row['max_position_embeddings']:,} tokens" if row["max_position_embeddings"] else None),
        ("type", row["dtype"]),
        ("quantised", row["quantization"]),
        ("weights", None if weights is None else f"{number(weights, 4)} GiB (by {row['weights_are']})"),
        ("KV a token", _kv(row["kv_bytes_per_token"])),
        ("gated", {True: "yes", False: "no", None: None}[row["gated"]]),
        ("license", row["license"]),
        ("age", str(Age(row["as_of"], row["age_days"]))),
        ("source", row["source"]),
    ]
    out = console()
    for name, value in lines:
        out.print(f"{name + ':':14}{'not known' if value is None else value}", soft_wrap=True)
    for note in row["notes"]:
        out.print(f"{'note:':14}{note}", soft_wrap=True)


def _count(value: Any, unit: float, name: str) -> str | None:
    return None if value is None else f"{number(float(value) / unit)} {name} ({int(value):,})"


def _kv(value: Any) -> str | None:
    if value is None:
        return None
    return f"{int(value):,} bytes at 16 bits, for a sequence longer than any window"
