"""The conversion to monthly partitions as a step of a migration."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import sqlalchemy as sa

from saju_ops.rows.engines.open import open_log_store
from saju_ops.rows.table import TIME_COLUMN
from saju_ops.schema.migrate import catalogue
from saju_ops.schema.migrate.run import Run
from saju_ops.schema.migrate.steps import Cost, Installation, Step
from saju_ops.schema.partitions.catalogue import PARTITIONS, SQLITE
from saju_ops.schema.partitions.convert import POSTGRES, convert, convert_back
from saju_ops.schema.partitions.months import free_names, month_of, months
from saju_ops.schema.partitions.mover import FUTURE
from saju_ops.schema.partitions.online import TOOL
from saju_ops.schema.tables import user_sessions
from saju_ops.words import counted, have

# Rows from which the tool is needed where writers may not wait.
LARGE = 1_000


class PartitionLog(Step):
    """What `convert` does with a live table; its SQL is that of a table of this package's migrations."""

    # Each of its statements commits by itself.
    outside_transaction = True

    def __init__(self, installation: Installation) -> None:
        self.installation, self.table = installation, installation.log_table
        self.title = f"monthly partitions of {self.table}"

    def left_out(self, dialect: sa.Dialect) -> str:
        return {"sqlite": SQLITE, "postgresql": POSTGRES}.get(dialect.name, "").replace(" Nothing was done.", "")

    def is_done(self, connection: sa.Connection) -> bool:
        if connection.dialect.name not in ("mysql", "mariadb"):
            return False
        return bool(connection.execute(PARTITIONS, {"name": self.table}).all())

    # --- as SQL --------------------------------------------------------------------------------------------------

    def up_sql(self, dialect: sa.Dialect) -> list[str]:
        present = month_of(datetime.now(UTC), self.installation.zone)
        named = free_names(list(months(present, present.next(self.installation.months_ahead))), set())
        pieces = [f"PARTITION {name} VALUES LESS THAN ({int(month.end.timestamp())})" for name, month in named]
        table, time = self._quoted(dialect, self.table), self._quoted(dialect, TIME_COLUMN)
        return [
            f"ALTER TABLE {table} DROP FOREIGN KEY {self._quoted(dialect, self._key)}, ALGORITHM=INPLACE, LOCK=NONE",
            f"ALTER TABLE {table} DROP PRIMARY KEY, ADD PRIMARY KEY ({self._quoted(dialect, 'log_id')}, {time}),"
            f" ALGORITHM=COPY, LOCK=SHARED PARTITION BY RANGE (UNIX_TIMESTAMP({time}))"
            f" ({', '.join(pieces)}, PARTITION {FUTURE} VALUES LESS THAN MAXVALUE)",
        ]

    def down_sql(self, dialect: sa.Dialect) -> list[str]:
        table, session = self._quoted(dialect, self.table), self._quoted(dialect, "session_id")
        parent = self._quoted(dialect, user_sessions.name)
        return [
            f"ALTER TABLE {table} DROP PRIMARY KEY, ADD PRIMARY KEY ({self._quoted(dialect, 'log_id')})"
            " REMOVE PARTITIONING",
            f"ALTER TABLE {table} ADD CONSTRAINT {self._quoted(dialect, self._key)} FOREIGN KEY ({session})"
            f" REFERENCES {parent} ({session}) ON DELETE CASCADE",
        ]

    @property
    def _key(self) -> str:
        """As the migrations call it; `convert` asks the table."""
        return f"fk_{self.table}_session_id"

    def _quoted(self, dialect: sa.Dialect, name: str) -> str:
        return dialect.identifier_preparer.quote(name)

    # --- on a live table -----------------------------------------------------------------------------------------

    def up_cost(self, connection: sa.Connection) -> Cost:
        rows = catalogue.rows_of(connection, self.table)
        time: sa.ColumnClause[datetime] = sa.column(TIME_COLUMN)
        query = sa.select(sa.func.count()).select_from(sa.table(self.table, time)).where(time.is_(None))
        lost = int(connection.execute(query).scalar_one()) if rows else 0
        refused = (
            f"{counted(lost, 'row')} of {self.table} {have(lost)} no {TIME_COLUMN}, and would silently get the present"
            " time with partitions; give each a time first."
        )
        online = shutil.which(TOOL) is not None
        return Cost(
            blocks="" if online else f"writers wait while its rows are copied, since {TOOL} is not installed",
            rows=rows, needs_dump=bool(rows), refused=refused if lost else "",
            notes=[f"by {TOOL}, while the service writes"] if online and rows >= LARGE else [],
        )  # fmt: skip

    def down_cost(self, connection: sa.Connection) -> Cost:
        rows = catalogue.rows_of(connection, self.table)
        return Cost(blocks="writers wait while its rows are copied", rows=rows, needs_dump=bool(rows))

    def up(self, run: Run) -> None:
        if run.scratch:
            return super().up(run)
        large = catalogue.rows_of(run.connection, self.table) >= LARGE
        # What it read keeps a lock on the table, for which our own ALTER would wait.
        run.connection.exec_driver_sql("COMMIT")
        way = "auto" if run.options.allow_blocking else TOOL if large else "alter"
        with open_log_store(run.url, self.table, self.installation.row_zone) as store:
            convert(
                store, now=datetime.now(UTC), ahead=self.installation.months_ahead, zone=self.installation.zone,
                way=way, say=run.say,
            )  # fmt: skip
        return None

    def down(self, run: Run) -> None:
        if run.scratch:
            return super().down(run)
        run.connection.exec_driver_sql("COMMIT")
        with open_log_store(run.url, self.table, self.installation.row_zone) as store:
            convert_back(store, say=run.say)
        return None
