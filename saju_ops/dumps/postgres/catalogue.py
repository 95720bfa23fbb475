"""What PostgreSQL's catalogue says of a database: its relations, the definition of everything else, its roles.

Extensions' own objects are left out: the extension brings them.
"""

# ruff: noqa: S608 (put together from constants only)

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.dumps.contents import Contents, TableContents
from saju_ops.dumps.engine import MARKER, fingerprint

OURS = r"""n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%'"""
_CLASS = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"


def _own(catalog: str, alias: str) -> str:
    return f"""{OURS} AND NOT EXISTS (SELECT 1 FROM pg_depend x
        WHERE x.classid = '{catalog}'::regclass AND x.objid = {alias}.oid AND x.deptype = 'e')"""


RELATIONS = f"""
SELECT format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relispopulated, c.oid, c.relfilenode
FROM {_CLASS} WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relname <> '{MARKER}'
  AND {_own("pg_class", "c")} ORDER BY 1"""

_VIEW = f"""
SELECT format('%I.%I', n.nspname, c.relname), pg_get_viewdef(c.oid), c.relkind::text, c.reloptions::text
FROM {_CLASS} WHERE c.relkind IN ('v', 'm') AND {_own("pg_class", "c")}"""

_TABLE = f"""
SELECT format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relpersistence::text, c.reloptions::text,
  c.relrowsecurity, c.relforcerowsecurity, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
  (SELECT array_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
      a.attgenerated, a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid)) ORDER BY a.attnum)
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhseqno) FROM pg_inherits i
    WHERE i.inhrelid = c.oid)
FROM {_CLASS} WHERE c.relkind IN ('r', 'p', 'f') AND c.relname <> '{MARKER}' AND {_own("pg_class", "c")}"""

# The indexes that pg_dump dumps: not those that a failed or ended CREATE INDEX CONCURRENTLY left.
_USABLE = """EXISTS (SELECT 1 FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
    WHERE i.indexrelid = c.oid AND i.indisready AND (i.indisvalid OR t.relkind = 'p'))"""
_INDEX = f"""
SELECT format('%I.%I', n.nspname, c.relname), pg_get_indexdef(c.oid)
FROM {_CLASS} WHERE c.relkind IN ('i', 'I') AND {_own("pg_class", "c")} AND {_USABLE}"""
INVALID_INDEXES = f"""
SELECT format('%I.%I', n.nspname, c.relname)
FROM {_CLASS} WHERE c.relkind IN ('i', 'I') AND {_own("pg_class", "c")} AND NOT {_USABLE} ORDER BY 1"""

_CONSTRAINT = f"""
SELECT concat_ws(' on ', format('%I.%I', n.nspname, k.conname), nullif(k.conrelid, 0)::regclass::text,
    nullif(k.contypid, 0)::regtype::text), pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE {_own("pg_constraint", "k")}"""

_TRIGGER = """
SELECT format('%s on %s', t.tgname, t.tgrelid::regclass), pg_get_triggerdef(t.oid), t.tgenabled::text
FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgparentid = 0"""

_ROUTINE = f"""
SELECT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.prokind::text,
  CASE WHEN p.prokind = 'a' THEN pg_get_function_result(p.oid) ELSE pg_get_functiondef(p.oid) END
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_own("pg_proc", "p")}"""

_TYPE = f"""
SELECT format('%I.%I', n.nspname, t.typname), t.typtype::text, format_type(t.typbasetype, t.typtypmod),
  (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype IN ('e', 'd', 'c', 'r') AND {_own("pg_type", "t")}
  AND (t.typrelid = 0 OR (SELECT c.relkind FROM pg_class c WHERE c.oid = t.typrelid) = 'c')"""

_POLICY = """
SELECT format('%s on %s', p.polname, p.polrelid::regclass), p.polcmd::text, p.polpermissive,
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p"""

_RULE = """
SELECT format('%s on %s', r.rulename, r.ev_class::regclass), pg_get_ruledef(r.oid)
FROM pg_rewrite r WHERE r.rulename <> '_RETURN' AND r.ev_class >= 16384"""

# The columns of each table by which others inherit or that inherits, and its parents in their order; not partitions,
# which pg_dump makes by themselves.
INHERITING = """
SELECT format('%I.%I', n.nspname, c.relname),
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum),
  ARRAY(SELECT format('%I.%I', pn.nspname, pc.relname) FROM pg_inherits i JOIN pg_class pc ON pc.oid = i.inhparent
    JOIN pg_namespace pn ON pn.oid = pc.relnamespace WHERE i.inhrelid = c.oid AND NOT c.relispartition
    ORDER BY i.inhseqno)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND EXISTS (SELECT 1 FROM pg_inherits i WHERE c.oid IN (i.inhparent, i.inhrelid))"""

# Each gives a name and the parts of its definition.
DEFINITIONS = {
    "view": _VIEW,
    "table": _TABLE,
    "index": _INDEX,
    "constraint": _CONSTRAINT,
    "trigger": _TRIGGER,
    "routine": _ROUTINE,
    "type": _TYPE,
    "policy": _POLICY,
    "rule": _RULE,
    # `public` is in every new database, and pg_dump neither makes nor drops it.
    "schema": f"SELECT n.nspname, '' FROM pg_namespace n WHERE {_own('pg_namespace', 'n')} AND n.nspname <> 'public'",
    "extension": "SELECT extname, '' FROM pg_extension",
    "event trigger": "SELECT evtname, evtevent, evtfoid::regproc::text, evtenabled::text FROM pg_event_trigger",
}

_PROC = "pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
# Roles that own or may use something, as far as a restore has to name them.
ROLES = f"""
SELECT DISTINCT r.rolname FROM pg_roles r WHERE r.oid IN (
  SELECT relowner FROM {_CLASS} WHERE {OURS}
  UNION SELECT proowner FROM {_PROC} WHERE {OURS}
  UNION SELECT nspowner FROM pg_namespace n WHERE {OURS}
  UNION SELECT (aclexplode(relacl)).grantee FROM {_CLASS} WHERE {OURS}
  UNION SELECT (aclexplode(nspacl)).grantee FROM pg_namespace n WHERE {OURS}
  UNION SELECT (aclexplode(proacl)).grantee FROM {_PROC} WHERE {OURS}
  UNION SELECT (aclexplode(defaclacl)).grantee FROM pg_default_acl)
ORDER BY 1"""

# Number of objects that have no definition above, and yet would be in a restore's way.
OTHER_OBJECTS = [
    f"SELECT count(*) FROM {_CLASS} WHERE c.relkind = 'S' AND {OURS}",
    "SELECT count(*) FROM pg_largeobject_metadata",
    *(
        f"SELECT count(*) FROM {catalog} o JOIN pg_namespace n ON n.oid = o.{prefix}namespace WHERE {OURS}"
        for catalog, prefix in (
            ("pg_operator", "opr"), ("pg_collation", "coll"), ("pg_ts_config", "cfg"), ("pg_ts_dict", "dict"),
            ("pg_statistic_ext", "stx"), ("pg_conversion", "con"),
        )
    ),
    "SELECT count(*) FROM pg_publication",
    "SELECT count(*) FROM pg_foreign_data_wrapper",
]  # fmt: skip
SCHEMAS = f"SELECT n.nspname FROM pg_namespace n WHERE {OURS}"
LARGE_OBJECTS = """
SELECT count(*), coalesce(sum(hashtextextended(loid || ' ' || pageno || ' ' || encode(data, 'hex'), 0)::numeric), 0)
FROM pg_largeobject"""
# The same without a right on the catalogue, by those that may be read; a page has a quarter of a block.
LARGE_OBJECTS_READ = """
WITH RECURSIVE size AS (SELECT current_setting('block_size')::int / 4 AS bytes),
page (loid, pageno, data) AS (
  SELECT m.oid, 0, lo_get(m.oid, 0, bytes) FROM pg_largeobject_metadata m, size
  UNION ALL
  SELECT loid, pageno + 1, lo_get(loid, (pageno + 1)::bigint * bytes, bytes) FROM page, size
  WHERE length(data) = bytes)
SELECT count(*), coalesce(sum(hashtextextended(loid || ' ' || pageno || ' ' || encode(data, 'hex'), 0)::numeric), 0)
FROM page WHERE length(data) > 0"""
LOCALE = """
SELECT pg_encoding_to_char(encoding), datcollate, datctype, to_jsonb(d) FROM pg_database d
WHERE datname = current_database()"""
# Settings of the database itself, and of roles in it: name, value, role.
SETTINGS = """
SELECT split_part(c, '=', 1), substr(c, strpos(c, '=') + 1), r.rolname
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
  unnest(s.setconfig) c
WHERE d.datname = current_database() ORDER BY 3 NULLS FIRST, 1"""


# Names without a schema are looked for where the database's own setting says, and then in every schema, until the
# transaction ends or says otherwise. pg_dump has nothing looked for, and a function that names a table or another
# function without its schema can't be executed then.
EVERYWHERE = r"""
SELECT pg_catalog.set_config('search_path',
  coalesce((SELECT substr(c, length('search_path=') + 1) || ', ' FROM pg_catalog.pg_db_role_setting s
    JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase AND s.setrole = 0, unnest(s.setconfig) c
    WHERE d.datname = current_database() AND c LIKE 'search\_path=%' AND c <> 'search_path=""'), '')
  || (SELECT string_agg(quote_ident(n.nspname), ', ' ORDER BY n.nspname <> 'public', n.nspname)
    FROM pg_catalog.pg_namespace n WHERE n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'), true)"""
# CHECKs that execute a function which is none of PostgreSQL's or an extension's, and which no other one brings along:
# the statements that take it away and put it back, its comment, its name as in DEFINITIONS.
CHECKS = f"""
SELECT format('ALTER %s DROP CONSTRAINT %I', w.what, k.conname),
  format('ALTER %s ADD CONSTRAINT %I %s', w.what, k.conname, pg_get_constraintdef(k.oid)),
  format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, w.owner, obj_description(k.oid, 'pg_constraint')),
  obj_description(k.oid, 'pg_constraint') IS NOT NULL,
  'constraint ' || concat_ws(' on ', format('%I.%I', n.nspname, k.conname), nullif(k.conrelid, 0)::regclass::text,
    nullif(k.contypid, 0)::regtype::text)
FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace, LATERAL (
  SELECT CASE WHEN k.conrelid <> 0 THEN 'TABLE ' || k.conrelid::regclass ELSE 'DOMAIN ' || k.contypid::regtype END,
    CASE WHEN k.conrelid <> 0 THEN k.conrelid::regclass::text ELSE 'DOMAIN ' || k.contypid::regtype END) w(what, owner)
WHERE k.contype = 'c' AND k.coninhcount = 0 AND {_own("pg_constraint", "k")} AND EXISTS (
  SELECT 1 FROM pg_depend f WHERE f.classid = 'pg_constraint'::regclass AND f.objid = k.oid
    AND f.refclassid = 'pg_proc'::regclass AND f.refobjid >= 16384 AND NOT EXISTS (SELECT 1 FROM pg_depend e
      WHERE e.classid = f.refclassid AND e.objid = f.refobjid AND e.deptype = 'e'))
ORDER BY k.oid"""

# --- definitions that a restore prints in another way -----------------------------------------------------------

_CAST_ARRAY = re.compile(r"\(ARRAY\[")
# What ends or opens something between the brackets: quoted text and names are stepped over whole.
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[\[\](),]")
_CAST = re.compile(r"\)::((?:[\w. ]|\"(?:[^\"]|\"\")*\")+(?:\([\d,]+\))?)\[\]")


def as_restored(definition: str) -> str:
    """A definition as PostgreSQL prints it once it was dumped and restored.

    `role IN ('a', 'b')` on a varchar is printed `(ARRAY['a'::character varying, …])::text[]`; read back, the cast is
    pushed into the array, and from then on `ARRAY[('a'::character varying)::text, …]` is printed.
    """
    at = 0
    while found := _CAST_ARRAY.search(definition, at):
        at = found.start() + 1
        parts, end = _elements(definition, found.end())
        cast = _CAST.match(definition, end)
        if cast:
            inside = ", ".join(f"({part})::{cast[1]}" for part in parts)
            definition = f"{definition[: found.start()]}ARRAY[{inside}]{definition[cast.end() :]}"
            at = found.start() + len("ARRAY[")
    return definition


def _elements(text: str, begin: int) -> tuple[list[str], int]:
    """The parts between commas from `begin` to the closing bracket, and the place behind it."""
    parts, depth, since = [], 0, begin
    for token in _TOKEN.finditer(text, begin):
        if token[0] == "," and not depth:
            parts.append(text[since : token.start()].strip())
            since = token.end()
        elif token[0] == "]" and not depth:
            return [*parts, text[since : token.start()].strip()], token.end()
        else:
            depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(token[0], 0)
    return [], len(text)


def restored_order(tables: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> dict[str, list[str]]:
    """The columns of tables that inherit, by name, as a restore orders them: the parents' first, in their order there,
    whenever they were added. `tables`: each with its columns and its parents. Only those in which that is another order
    than they have."""
    found: dict[str, list[str]] = {}

    def order(name: str) -> list[str]:
        if name not in found and name in tables:
            columns, parents = tables[name]
            first = [c for parent in parents for c in order(parent) if c in columns]
            found[name] = list(dict.fromkeys([*first, *columns]))
        return found.get(name, [])

    return {name: order(name) for name, (columns, _) in tables.items() if order(name) != list(columns)}


# Settings that are lists of names, kept as they are written in a statement.
LIST_SETTINGS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}
LIST_ITEM = re.compile(r'"(?:[^"]|"")*"|[^",\s]+')


def _rows(connection: sa.Connection, statement: str) -> list[Any]:
    return list(connection.exec_driver_sql(statement.replace("%", "%%")).all())


def _contents(connection: sa.Connection) -> Contents:
    # Without a search path, names are those of PostgreSQL itself, and definitions are printed with their schemas.
    connection.exec_driver_sql("SET search_path = ''")
    tables = {}
    version = str(connection.exec_driver_sql("SHOW server_version").scalar()).split(".")[0]
    orders = _restored_orders(connection)
    for name, kind, *_ in _rows(connection, RELATIONS):
        # A materialized view's rows are not dumped: a restore computes them anew.
        if kind == "r":
            tables[name] = _measured(connection, name, orders.get(name))
        elif kind == "S":
            ((value, called),) = _rows(connection, f"SELECT last_value, is_called FROM {name}")
            tables[name] = TableContents(1, f"{value} {'t' if called else 'f'}")
    may_read = connection.exec_driver_sql("SELECT has_table_privilege('pg_largeobject', 'SELECT')").scalar()
    ((count, total),) = _rows(connection, LARGE_OBJECTS if may_read else LARGE_OBJECTS_READ)
    if count:
        tables["pg_largeobject"] = TableContents(int(count), f"{int(total) % 2**64:016x}")
    return Contents(tables, _definitions(connection), f"postgresql {version}")


def _measured(connection: sa.Connection, table: str, order: list[str] | None) -> TableContents:
    """`order`: in which a restore has the columns, where that is another."""
    # The row as text, settings being pinned; sum, not xor: a row that is there twice counts twice.
    # As `::text` prints it, but by no cast that somebody made for the table's rows.
    row = f"ROW({', '.join(f'saju_row.{_identifier(c)}' for c in order)})" if order else "saju_row.*"
    hashed = f"pg_catalog.hashtextextended(pg_catalog.textin(pg_catalog.record_out({row})), 0)::pg_catalog.numeric"
    statement = f"SELECT pg_catalog.count(*), coalesce(pg_catalog.sum({hashed}), 0) FROM ONLY {table} saju_row"
    try:
        with connection.begin_nested():
            ((rows, total),) = _rows(connection, statement)
    except DBAPIError as error:
        if not str(getattr(error.orig, "sqlstate", "")).startswith("42"):
            raise
        # A function of one of its indexes, which the planner looks at, names something without a schema.
        with connection.begin_nested():
            _rows(connection, EVERYWHERE)
            ((rows, total),) = _rows(connection, statement)
            connection.exec_driver_sql("SET LOCAL search_path = ''")
    return TableContents(int(rows), f"{int(total) % 2**64:016x}")


def _restored_orders(connection: sa.Connection) -> dict[str, list[str]]:
    return restored_order({name: (columns, parents) for name, columns, parents in _rows(connection, INHERITING)})


def _definitions(connection: sa.Connection) -> dict[str, str]:
    # Without a search path, every definition is printed with its schemas.
    connection.exec_driver_sql("SET search_path = ''")
    orders = _restored_orders(connection)
    columns = {name: list(has) for name, has, _ in _rows(connection, INHERITING)} if orders else {}
    found = {}
    for kind, statement in DEFINITIONS.items():
        for name, *parts in _rows(connection, statement):
            if kind == "table" and name in orders:
                parts = [_in_order(p, columns[name], orders[name]) if isinstance(p, list) else p for p in parts]
            parts = [",".join(p) if isinstance(p, list) else p for p in parts]
            found[f"{kind} {name}"] = fingerprint(*(as_restored(p) if isinstance(p, str) else p for p in parts))
    return found


def _in_order(parts: list[str], columns: list[str], order: list[str]) -> list[str]:
    by_column = dict(zip(columns, parts, strict=True))
    return [by_column[column] for column in order]


def _settings(connection: sa.Connection) -> bytes:
    """ALTER DATABASE … SET, which pg_dump writes only together with CREATE DATABASE: a time zone or a search path set
    so would be lost. What the restoring user may not set is passed over with a warning."""
    statements = []
    for name, value, role in _rows(connection, SETTINGS):
        words = LIST_ITEM.findall(value) if name.lower() in LIST_SETTINGS else [value]
        values = ", ".join(_literal(w[1:-1].replace('""', '"') if w[:1] == '"' else w) for w in words) or "''"
        setting = ".".join(_identifier(part) for part in name.split("."))
        whom = f"ROLE {_identifier(role)} IN DATABASE" if role else "DATABASE"
        statement = f"ALTER {whom} ".replace("%", "%%") + "%I" + f" SET {setting} TO {values}".replace("%", "%%")
        body = (
            f"BEGIN EXECUTE format({_literal(statement)}, current_database());"
            " EXCEPTION WHEN OTHERS THEN RAISE WARNING 'a setting of the database was left out'; END"
        )
        statements.append(f"DO {_literal(body)};\n")
    head = ["SET client_encoding = 'UTF8';\n", "SET standard_conforming_strings = on;\n"]
    return "".join([*head, *statements]).encode() if statements else b""


def shown_setting(name: str, value: str, role: str | None) -> str:
    """The value of an extension's or the service's own setting may be a secret: only its fingerprint is shown."""
    shown = value if "." not in name else f"#{fingerprint(value)[:8]}"
    return f"{name}={shown}" + (f" for {role}" if role else "")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
