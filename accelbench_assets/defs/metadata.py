"""What the UI shows of a materialisation: row counts, column schemas, previews, pictures.

Belongs here: turning Arrow tables and PNG bytes into Dagster metadata.
Does not belong here: computing either (``bench``, ``sqlkit``).
"""

import base64
import datetime
import decimal
import math

import dagster as dg
import pyarrow as pa

PREVIEW_ROWS = 10
OWNERS = ["team:accelbench"]


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """Dagster's table schema of an Arrow schema."""
    return dg.TableSchema(columns=[dg.TableColumn(name=f.name, type=str(f.type)) for f in schema])


def _cell(value: object) -> str | int | float | bool:
    if value is None:
        return "-"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return str(value)[:120]


def _microseconds(schema: pa.Schema) -> pa.Schema:
    """*schema* with nanosecond clocks as microseconds, which Python's datetime can hold."""
    fields = [
        f.with_type(pa.timestamp("us", f.type.tz))
        if pa.types.is_timestamp(f.type) and f.type.unit == "ns"
        else f
        for f in schema
    ]
    return pa.schema(fields)


def table_metadata(table: pa.Table, uri: str, *, preview: bool = True) -> dict[str, dg.MetadataValue]:
    """Row count, column schema, place and the first rows of *table*, which was written to *uri*."""
    found: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(table.num_rows),
        "dagster/column_schema": dg.MetadataValue.table_schema(column_schema(table.schema)),
        "dagster/uri": dg.MetadataValue.text(uri),
    }
    if preview and table.num_rows:
        head = table.slice(0, PREVIEW_ROWS).cast(_microseconds(table.schema), safe=False)
        rows = [{k: _cell(v) for k, v in row.items()} for row in head.to_pylist()]
        columns = [dg.TableColumn(name=f.name, type=str(f.type)) for f in table.schema]
        found["preview"] = dg.MetadataValue.table(
            records=[dg.TableRecord(row) for row in rows], schema=dg.TableSchema(columns=columns)
        )
    return found


def picture(png: bytes, alt: str) -> dg.MetadataValue:
    """A PNG shown inline by the UI."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")
