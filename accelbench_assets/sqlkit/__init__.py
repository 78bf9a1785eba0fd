"""SQL: load the files under ``sql/``, run them on DuckDB over the lake, publish rows and views to PostgreSQL.

Belongs here: finding and ordering SQL files (``files``), DuckDB over the lake (``duck``), building marts
(``marts``), transpiling to PostgreSQL (``dialect``), the embedded server (``postgres``), the verified
publication (``publish``). Does not belong here: formulas (they are SQL, in ``sql/``), where bytes lie
(``lake``), pages (``reports``).
"""
