"""Percona's pt-online-schema-change, where it is installed and works: the table is rebuilt while the service writes.

It copies the table in chunks, with three triggers that take over what is written meanwhile, and exchanges the two by
one RENAME. Killed, it leaves the triggers and its copy: the triggers are dropped first, since without the copy every
INSERT of the service would fail. It ends with this process, and its password is in a file in memory.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable

import sqlalchemy as sa

from saju_ops.dumps.mysql.clients import options_file
from saju_ops.dumps.programs import asked, environment, failed, secret_file
from saju_ops.errors import OperatorError
from saju_ops.rows.engines.open import RowStore
from saju_ops.schema.partitions.catalogue import layout_of, quoted, run

TOOL = "pt-online-schema-change"
LOCK_WAIT_SECONDS = 5
TRIGGERS = sa.text(
    "SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()"
    " AND EVENT_OBJECT_TABLE = :name"
)
PREFIX = "pt_osc_"
DIES_WITH_PARENT = 1


def why_not(store: RowStore) -> str:
    """Why the tool can't be used for this table; empty where it can."""
    path = shutil.which(TOOL)
    if path is None:
        return f"{TOOL} is not installed"
    if asked([path, "--version"]).returncode:
        return f"`{TOOL} --version` fails"
    if "init_command" in store.url.query:
        return "the address has an init_command"
    others = [str(name) for name, _ in _triggers(store) if not str(name).startswith(PREFIX)]
    if others:
        return f"{store.table.name} has triggers of its own ({', '.join(others)})"
    grants = store.connection.exec_driver_sql("SELECT @@log_bin").scalar()
    store.end_read()
    if grants and not store.connection.exec_driver_sql("SELECT @@log_bin_trust_function_creators").scalar():
        store.end_read()
        return "the server's binary log needs log_bin_trust_function_creators for its triggers"
    store.end_read()
    return ""


def run_tool(store: RowStore, body: str, say: Callable[[str], None]) -> None:
    """Raises OperatorError, with nothing of the tool left behind and the table as it was."""
    path = shutil.which(TOOL)
    assert path is not None
    settings = f"lock_wait_timeout={LOCK_WAIT_SECONDS}"
    if store.table.engine == "mysql":
        # Without it the tool copies in one chunk and blocks writers throughout (MySQL 9).
        settings += ",explain_format=TRADITIONAL"
    text = options_file(store.url, store.table.engine == "mariadb").replace("[client]", "[client]\nlocal-infile=0", 1)
    with secret_file(_for_perl(text)) as secret, tempfile.TemporaryFile() as said:
        command = [
            path, "--alter", body, "--execute", "--no-check-alter", "--no-check-unique-key-change",
            "--no-version-check", "--recursion-method=none", f"--set-vars={settings}", "--no-check-replication-filters",
            "--charset=utf8mb4",
            f"F=/dev/fd/{secret},D={_escaped(store.table.database)},t={_escaped(store.table.name)}",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, env=environment(), pass_fds=(secret,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=said, preexec_fn=_die_with_parent,
        )  # fmt: skip
        try:
            status = process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            clean_up(store)
            raise
        if status:
            clean_up(store)
            error = failed(TOOL, status, said)
            raise OperatorError(f"{error} {store.table.name} is as it was, and nothing of the tool's is left.")
    say(f"{TOOL} has ended; the table has its partitions.")


def _for_perl(text: str) -> str:
    """The options that its driver knows: it takes MariaDB's and MySQL's sections without the words for TLS modes."""
    wanted = ("[client]", "user=", "password=", "host=", "port=", "socket=", "ssl-ca=", "ssl-cert=", "ssl-key=")
    return "\n".join(line for line in text.splitlines() if line.startswith(wanted)) + "\n"


def _escaped(name: str) -> str:
    # A comma separates the parts of a DSN.
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGTERM)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def clean_up(store: RowStore) -> list[str]:
    """Removes what a killed run of the tool left of this table: its triggers first, then its copy. Gives the names."""
    gone = []
    copy = f"_{store.table.name}_new"
    for name, action in _triggers(store):
        if str(name).startswith(PREFIX) and copy in str(action):
            run(store, f"DROP TRIGGER IF EXISTS {quoted(store, str(name))}")
            gone.append(str(name))
    old = f"_{store.table.name}_old"
    if store.has_table(copy) and (gone or _is_the_tools(store, copy)):
        run(store, f"DROP TABLE {quoted(store, copy)}")
        gone.append(copy)
    # Behind the exchange: the table before, with the very rows, which no service knows.
    if store.has_table(old) and _is_the_tools(store, old) and layout_of(store) is not None:
        run(store, f"DROP TABLE {quoted(store, old)}")
        gone.append(old)
    return gone


def _is_the_tools(store: RowStore, name: str) -> bool:
    """By the comment that we gave the table, which its copy has."""
    from saju_ops.schema.partitions.remembered import COMMENT, MARK

    comment = store.connection.execute(COMMENT, {"name": name}).scalar()
    store.end_read()
    return str(comment or "").startswith(MARK)


def _triggers(store: RowStore) -> list[tuple[str, str]]:
    found = [(str(n), str(a)) for n, a in store.connection.execute(TRIGGERS, {"name": store.table.name})]
    store.end_read()
    return found
