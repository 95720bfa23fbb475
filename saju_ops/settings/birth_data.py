"""Birth dates: the keys that encrypt them, and the account that developers see sessions by."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import secret_text, setting
from saju_ops.settings.values import AccountName, Cron, EncryptionKeys, Password

if TYPE_CHECKING:
    from saju_ops.schema.birth_data.keys import Key


class BirthData(Feature):
    """The keys of birth dates and the developers' account."""

    title: ClassVar[str] = "Birth dates and the masked view"
    page: ClassVar[str] = "birth_data.md"

    encryption_keys_secret: EncryptionKeys | None = setting(
        "ENCRYPTION_KEY",
        default=None,
        holds="Fernet keys, separated by commas, each of 44 characters of base64: the first encrypts, all decrypt",
        about="Encrypts birth dates. The service needs the same keys. Keep them where the backups are not: without its"
        " key no birth can be read again",
        empty="that birth dates are not encrypted",
    )
    encrypt_birth_data_cron: Cron = setting(
        "ENCRYPT_BIRTH_DATA_CRON",
        default="0 5 * * *",
        holds="a cron line of five fields, such as '0 5 * * *'",
        about="When birth dates of new sessions are encrypted, in TIMEZONE, after the first run by hand",
    )
    developer_user: AccountName | None = setting(
        "DEVELOPER_USER",
        default=None,
        holds="the name of a database account, of 1 to 32 letters, digits, dots, hyphens and underscores",
        about="`saju-ops masked-view` makes this account, which sees masked views alone",
        empty="that none is made",
        example="developer",
    )
    developer_password: Password | None = setting(
        "DEVELOPER_PASSWORD",
        default=None,
        holds="at least 12 printable ASCII characters, such as `openssl rand -base64 24` prints",
        about="The password of DEVELOPER_USER",
    )

    @property
    def encryption_keys(self) -> tuple[Key, ...]:
        from saju_ops.schema.birth_data.keys import parse_keys

        text = secret_text(self.encryption_keys_secret)
        return parse_keys(text) if text else ()
