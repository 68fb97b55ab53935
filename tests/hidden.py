"""Rows that an index does not lead to, though the table holds them: for whoever reads by the index, they are gone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from .postgres import run_sql


def hide(file: Path, table: str, which: str, *instead: str) -> None:
    """Take the rows of which a condition tells out of the index of a log's streams, in a file: the index of a copy that
    lacks them takes its place. `instead`: what their columns are set to in the copy, one after another, so that as many
    entries are left."""
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        [(made,)] = raw.execute("SELECT sql FROM sqlite_master WHERE name=?", [table])
        raw.execute(made.replace(table, "twin"))
        if instead:
            raw.execute(f"INSERT INTO twin SELECT * FROM {table}")
            for one in instead:
                raw.execute(f"UPDATE twin SET {one} WHERE {which}")
        else:
            raw.execute(f"INSERT INTO twin SELECT * FROM {table} WHERE NOT ({which})")
        raw.execute("PRAGMA writable_schema=ON")
        pages = dict(raw.execute("SELECT tbl_name, rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_%'"))
        for name, other in ((table, "twin"), ("twin", table)):
            raw.execute(
                "UPDATE sqlite_master SET rootpage=? WHERE name LIKE 'sqlite_autoindex_%' AND tbl_name=?",
                (pages[other], name),
            )
        raw.execute("PRAGMA writable_schema=OFF")
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        raw.execute("DROP TABLE twin")


def hide_on_server(schema: str, table: str, which: str, *, key: str = "") -> None:
    """The same on a server: the index of the constraint (or that of a table's `key`) is a partial one, of which the
    catalogue does not tell."""
    name = f"{table}_pkey" if key else f"{table}_originator_id_originator_version_key"
    over = key or "originator_id, originator_version"
    run_sql(f"CREATE UNIQUE INDEX hiding ON {schema}.{table} ({over}) WHERE NOT ({which})")
    run_sql("UPDATE pg_index SET indpred=NULL WHERE indexrelid=%s::regclass", f"{schema}.hiding")
    run_sql(f"ALTER TABLE {schema}.{table} DROP CONSTRAINT {name}")
    run_sql(
        f"ALTER TABLE {schema}.{table} ADD CONSTRAINT {name} {'PRIMARY KEY' if key else 'UNIQUE'} USING INDEX hiding"
    )
