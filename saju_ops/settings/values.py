"""What a value of one setting may be, where that takes more than a range: the types of the settings' fields. What they
refuse is a ValueError with the reason; none shows the value, which may hold a secret."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, SecretStr

from saju_ops.database.address import parse_database_url
from saju_ops.database.families import family_of
from saju_ops.database.service_address import require_http_address, require_redis_address
from saju_ops.paths import slip_in, slip_in_path
from saju_ops.settings.fields import listed
from saju_ops.words import counted

# Listed among the zones and none: this machine's own, and the one of a machine that was never set up.
NO_ZONES = {"localtime", "Factory", "posixrules", "posix", "right"}
# By field of a cron line: its name and the longest step that reaches a second value.
STEPS = {"minutes": 59, "hours": 23, "days of the month": 31, "months": 12, "days of the week": 7}
_MAIL = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_NAMED_MAIL = re.compile(rf"[^<>@,;]*<({_MAIL.pattern})>")
# A table, perhaps with its schema; a column with both.
_TABLE = re.compile(r"[^\x00/\\\s,]{1,129}")
_COLUMN = re.compile(r"[^\x00/\\\s,.]+(\.[^\x00/\\\s,.]+){1,2}")
# In a list: there is none.
NONE = "none"
# Characters of a key of BACKUP_SEAL_KEY, and how many of them must differ.
SHORTEST_KEY, FEWEST_DIFFERENT = 32, 8
SHORTEST_TOKEN = 32
FIRST_DATE = date(1970, 1, 2)


def _requires(require: Callable[[str], Any]) -> AfterValidator:
    """The value is taken as it is, if `require` takes it."""

    def validate(value: Any) -> Any:
        require(value.get_secret_value() if isinstance(value, SecretStr) else value)
        return value

    return AfterValidator(validate)


def _shaped(pattern: str, why: str) -> AfterValidator:
    def require(text: str) -> None:
        if not re.fullmatch(pattern, text):
            raise ValueError(why)

    return _requires(require)


# --- databases ----------------------------------------------------------------------------------------------------


def listed_addresses(text: str) -> list[str]:
    """Database addresses that are separated by blanks; each can be read, and says one database."""
    found = text.split()
    for each in found:
        if each.endswith((",", ";")) or re.search(r"[,;][A-Za-z][\w+.-]*://", each):
            raise ValueError("addresses are separated by blanks here, not by commas or semicolons")
        parse_database_url(each)
    return found


def _require_replicas(text: str) -> None:
    for each in listed_addresses(text):
        if parse_database_url(each).get_backend_name() not in ("mysql", "mariadb"):
            raise ValueError("only MySQL and MariaDB replicas are asked for their lag")


def _require_drill_servers(text: str) -> None:
    families = [family_of(parse_database_url(each)) for each in listed_addresses(text)]
    if "sqlite" in families:
        raise ValueError("a SQLite dump is tried in a temporary file and needs no server")
    if len(set(families)) < len(families):
        raise ValueError("two servers of one engine")


DatabaseAddress = Annotated[SecretStr, _requires(parse_database_url)]
Replicas = Annotated[SecretStr, _requires(_require_replicas)]
DrillServers = Annotated[SecretStr, _requires(_require_drill_servers)]
RedisAddress = Annotated[SecretStr, _requires(require_redis_address)]


# --- times --------------------------------------------------------------------------------------------------------


# It walks through all files of zones.
_zones = cache(available_timezones)


def require_zone(name: str) -> None:
    if name not in _zones():
        raise ValueError("no such time zone is known")
    if name in NO_ZONES:
        raise ValueError("that is no zone of a place: its days begin wherever this machine was set up to think")


def require_cron(line: str) -> None:
    from cronsim import CronSim, CronSimError

    # CronSim takes a sixth field for seconds, which Dagster doesn't.
    if len(line.split()) != 5:
        raise ValueError("not a cron line: Wrong number of fields")
    _, _, monthday, _, weekday = line.upper().split()
    if "LW" in monthday or any(part.endswith("L") for part in weekday.split(",")):
        # CronSim knows "the last Friday" and "the last weekday", which Dagster doesn't either.
        raise ValueError("not a cron line: L is for the last day of the month alone")
    for field, (name, longest) in zip(line.split(), STEPS.items(), strict=True):
        for step in re.findall(r"/(\d+)", field):
            if int(step) > longest:
                raise ValueError(f"not a cron line: no {name} are {step} apart")
    try:
        CronSim(line, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"not a cron line: {error}") from None


def _not_in_the_future(value: date) -> date:
    # Somewhere on earth it is that day already.
    if not FIRST_DATE <= value <= datetime.now(ZoneInfo("Pacific/Kiritimati")).date():
        raise ValueError("out of range")
    return value


Zone = Annotated[str, _requires(require_zone)]
Cron = Annotated[str, _requires(require_cron)]
StartDate = Annotated[date, AfterValidator(_not_in_the_future)]


# --- tables and columns -------------------------------------------------------------------------------------------


def _all_shaped(pattern: re.Pattern[str], what: str, *, or_none: bool = False) -> AfterValidator:
    def require(text: str) -> None:
        if or_none and text.strip() == NONE:
            return
        if not listed(text) or not all(pattern.fullmatch(name) for name in listed(text)):
            raise ValueError(f"that can't be a list of {what}")

    return _requires(require)


def names_or_none(text: str) -> tuple[str, ...]:
    names = listed(text)
    return () if names == (NONE,) else names


def _require_links(text: str) -> None:
    if not listed(text):
        return  # most have none, and what reads them takes a while to import

    from saju_ops.expired.links import parse_links

    parse_links(listed(text))


def _status(value: str) -> str:
    value = value.strip()
    if value.casefold() in ("pending", "processing") or len(value) > 64 or not value.isprintable():
        raise ValueError("such a job would stay stale, or no column holds that")
    return value


TableName = Annotated[str, _shaped(r"[^\x00/\\]{1,64}", "that can't be a table's name")]
# "none" is the name of no table here either.
TableNames = Annotated[str, _all_shaped(_TABLE, "tables")]
ColumnNames = Annotated[str, _all_shaped(_COLUMN, "columns")]
ColumnNamesOrNone = Annotated[str, _all_shaped(_COLUMN, "columns", or_none=True)]
Links = Annotated[str, _requires(_require_links)]
EndStatus = Annotated[str, AfterValidator(_status)]


# --- places -------------------------------------------------------------------------------------------------------


def _require_store(value: str) -> None:
    from saju_ops.storage.address import split_uri
    from saju_ops.storage.open import StorageError

    try:
        split_uri(value)
    except StorageError as error:
        raise ValueError("no such address" if "@" in value else str(error)) from None


def _path(value: str) -> str:
    if slip := slip_in_path(value.strip()):
        raise ValueError(slip)
    return value.strip()


def _folder_in_bucket(value: str) -> str:
    value = value.strip()
    if value.startswith("/") or "://" in value or ".." in value.split("/") or slip_in(value):
        raise ValueError(slip_in(value) or "not a folder inside the bucket")
    return value


def _http(value: str) -> str:
    require_http_address(value.strip())
    return value.strip()


def _bare_http(value: str) -> str:
    value = _http(value)
    url = urlsplit(value)
    if url.query or url.fragment or not url.netloc.isascii():
        raise ValueError("only scheme, host, port and path are allowed")
    return value.rstrip("/")


NO_SERVER = "that can't be a server's name"
StoreAddress = Annotated[str, _requires(_require_store)]
FilePath = Annotated[str, AfterValidator(_path)]
Bucket = Annotated[str, _shaped(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", "that can't be a bucket's name")]
BucketFolder = Annotated[str, AfterValidator(_folder_in_bucket)]
WebAddress = Annotated[str, AfterValidator(_http)]
BareWebAddress = Annotated[str, AfterValidator(_bare_http)]
ServerName = Annotated[str, _shaped(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:]+", NO_SERVER)]
# Blanks around it are allowed, none inside.
MailServerName = Annotated[str, _shaped(r"\s*[^@/\s]*\s*", NO_SERVER)]


# --- secrets ------------------------------------------------------------------------------------------------------

NOT_VISIBLE = "it has blanks or other characters than ASCII"


def _require_password(text: str) -> None:
    from saju_ops.storage.encryption import SHORTEST

    if len(text.strip()) < SHORTEST:
        raise ValueError("too short")
    if not (text.isascii() and text.isprintable()):
        raise ValueError("not printable ASCII")


def keys_in(text: str) -> list[str]:
    """The keys of a list; an empty one stays, as a mistake."""
    return [key.strip() for key in text.split(",")]


def _require_keys(text: str) -> None:
    for number, key in enumerate(keys_in(text), 1):
        if len(key) < SHORTEST_KEY:
            raise ValueError(f"key {number} has {counted(len(key), 'character')}")
        if not re.fullmatch("[!-~]+", key):
            raise ValueError(f"key {number} has blanks or other characters than ASCII")
        if len(set(key)) < FEWEST_DIFFERENT:
            raise ValueError(f"key {number} has fewer than {FEWEST_DIFFERENT} different characters")


def _require_encryption_keys(text: str) -> None:
    from saju_ops.schema.birth_data.keys import parse_keys

    parse_keys(text)


def _require_long_token(text: str) -> None:
    if len(text) < SHORTEST_TOKEN:
        raise ValueError(f"it has {counted(len(text), 'character')}")
    if not re.fullmatch("[!-~]+", text):
        raise ValueError(NOT_VISIBLE)


Password = Annotated[SecretStr, _requires(_require_password)]
SealKeys = Annotated[SecretStr, _requires(_require_keys)]
EncryptionKeys = Annotated[SecretStr, _requires(_require_encryption_keys)]
AccountName = Annotated[str, _shaped(r"[A-Za-z0-9_.-]{1,32}", "not an account's name")]
Token = Annotated[SecretStr, _shaped("[!-~]+", NOT_VISIBLE)]
LongToken = Annotated[SecretStr, _requires(_require_long_token)]


# --- mail and jobs ------------------------------------------------------------------------------------------------


def require_mail_addresses(text: str, *, one: bool = False) -> None:
    """`name@place` or `Words <name@place>`, several with commas between them."""
    found = [each.strip() for each in text.split(",")]
    if one and len(found) > 1:
        raise ValueError("it may be one address")
    for each in found:
        if not each.isascii() or not (_MAIL.fullmatch(each) or _NAMED_MAIL.fullmatch(each)):
            raise ValueError("not an e-mail address")


def _require_ascii(text: str) -> None:
    if not text.isascii():  # SMTP's own limit
        raise ValueError("only ASCII characters are allowed")


def _require_jobs(text: str) -> None:
    for name in listed(text):
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} can't be a job's name")


MailAddress = Annotated[str, _requires(lambda text: require_mail_addresses(text, one=True))]
MailAddresses = Annotated[str, _requires(require_mail_addresses)]
Ascii = Annotated[str, _requires(_require_ascii)]
AsciiSecret = Annotated[SecretStr, _requires(_require_ascii)]
JobNames = Annotated[str, _requires(_require_jobs)]
