"""The first line of an error, as far as it may be shown: an exception's text can quote a row, a message, a birth date.

The project's own errors (`Failure`, `OperatorError` and its subclasses) are written for the operator and shown. Of
other errors only those are shown whose text consists of names and codes; of the rest, only the class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from saju_ops.database.connect import mysql_error_is_plain

LENGTH = 500
# Written for the operator, never with a row's value.
OURS = {
    "Failure", "OperatorError", "Busy", "Refused", "ProofFailed", "SettingsError", "StorageError", "AlreadyThere",
}  # fmt: skip
# Texts of names, paths, addresses and codes.
PLAIN = {
    "OSError", "FileNotFoundError", "FileExistsError", "PermissionError", "IsADirectoryError", "NotADirectoryError",
    "ConnectionError", "ConnectionRefusedError", "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError",
    "TimeoutError", "InterruptedError", "BlockingIOError", "ModuleNotFoundError", "ImportError", "MemoryError",
    "NoCredentialsError", "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError",
}  # fmt: skip
# Dagster's own errors, whose texts name steps, assets, partitions and settings of a run.
_DAGSTER = {
    "DagsterAssetCheckFailedError", "DagsterUnknownPartitionError", "DagsterInvariantViolationError",
    "DagsterInvalidConfigError", "DagsterExecutionInterruptedError", "DagsterUserCodeUnreachableError",
    "DagsterUserCodeProcessError", "DagsterResourceFunctionError", "DagsterRunNotFoundError",
    "DagsterLaunchFailedError",
}  # fmt: skip
_MYSQL = re.compile(r"\((\d{3,5}), [\"'](.*)[\"']\)")
_DRIVER = re.compile(r"^\((?:psycopg\.|psycopg\.errors\.|sqlite3\.)(\w+)\) (.*)$")
# Kinds of database errors whose text quotes values.
_QUOTES_VALUES = ("DataError", "IntegrityError", "UniqueViolation", "NotNullViolation", "CheckViolation",
                  "ForeignKeyViolation", "InvalidTextRepresentation", "StringDataRightTruncation")  # fmt: skip


@dataclass(frozen=True)
class RaisedError:
    """An exception as Dagster's event log keeps it."""

    kind: str
    text: str
    cause: RaisedError | None = None


def shown(error: RaisedError) -> str:
    """`Class: first line`, or the class alone."""
    ours = _first_of_ours(error)
    if ours is not None:
        return _short(_message(ours))
    innermost = error
    while innermost.cause is not None:
        innermost = innermost.cause
    return _foreign(innermost)


def _first_of_ours(error: RaisedError | None) -> RaisedError | None:
    while error is not None:
        if error.kind in OURS:
            return error
        error = error.cause
    return None


def _foreign(error: RaisedError) -> str:
    text = _message(error)
    if error.kind in PLAIN | _DAGSTER:
        return _short(f"{error.kind}: {text}")
    found = _MYSQL.search(text)
    if found:
        code = int(found[1])
        if mysql_error_is_plain(code, found[2]):
            return _short(f"{error.kind} {code}: {found[2]}")
        return f"{error.kind} (오류 코드 {code})"
    if "CONTEXT:  PL/" in error.text:  # a function's own words, under any code
        return f"{error.kind} (자세한 내용은 실행 화면)"
    driver = _DRIVER.match(text)
    if driver and driver[1] not in _QUOTES_VALUES and error.kind in ("OperationalError", "InterfaceError"):
        return _short(f"{driver[1]}: {driver[2]}")
    if error.kind in ("OperationalError", "InterfaceError") and not driver and "(" not in text:
        return _short(f"{error.kind}: {text}")
    return f"{error.kind} (자세한 내용은 실행 화면)"


def _message(error: RaisedError) -> str:
    """The first line of the text, without `module.Class: ` before it."""
    text = error.text.strip()
    line = text.splitlines()[0].strip() if text else ""
    head, colon, rest = line.partition(": ")
    if colon and head.rsplit(".", 1)[-1] == error.kind:
        line = rest
    return line


def _short(text: str) -> str:
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}… ({len(text) - LENGTH}자 생략)"
