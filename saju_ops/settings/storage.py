"""Where backups are stored, and how they are packed, encrypted and sealed."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import SecretStr, model_validator
from pydantic_core import PydanticCustomError

from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import secret_text, setting
from saju_ops.settings.values import FilePath, Password, SealKeys, StoreAddress, WebAddress, keys_in

if TYPE_CHECKING:
    from saju_ops.storage.open import DriveOptions, S3Options


class Stores(Feature):
    """The stores themselves."""

    title: ClassVar[str] = "Storage and encryption"
    page: ClassVar[str] = "storage.md"

    backup_uri: StoreAddress = setting(
        "BACKUP_URI",
        default="./backups",
        holds="a folder, s3://bucket/prefix or gdrive://<folder id>, or two of them with a comma between them: then a"
        " backup counts once it is in both",
        about="Where backups are stored. No store may be inside, or hold, what it backs up, Dagster's history or the"
        " other store",
    )
    archive_compression: Literal["none", "gzip"] = setting(
        "ARCHIVE_COMPRESSION", default="none", holds="{allowed}", about="How the files of archives are compressed"
    )
    archive_password: Password | None = setting(
        "ARCHIVE_PASSWORD",
        default=None,
        holds="a password of at least 12 printable ASCII characters (other tools disagree on how to encode others),"
        " such as `openssl rand -base64 24` prints; with it, archives, dumps and snapshots are encrypted zip files",
        about="Encrypts archives, dumps and snapshots (zip, AES-256). Keep it where the backups are not",
        # Taken for none, blanks would leave every backup unencrypted.
        blank=True,
    )
    backup_seal_keys: SealKeys | None = setting(
        "BACKUP_SEAL_KEY",
        default=None,
        holds="keys by which manifests are sealed, separated by commas, each of at least 32 printable ASCII characters"
        " without blanks, such as `openssl rand -hex 32` prints: the first seals, all verify",
        about="Seals manifests, so that nobody who can write into the store can make or change a backup. After setting"
        " it, or after an upgrade with a password set, run `saju-ops seal` once",
        empty="that ARCHIVE_PASSWORD seals, where it is set",
    )

    @property
    def seal_secrets(self) -> tuple[str, ...]:
        """What seals manifests, first the one that seals new ones. ARCHIVE_PASSWORD verifies what it sealed."""
        keys = keys_in(self.backup_seal_keys.get_secret_value()) if self.backup_seal_keys else []
        password = secret_text(self.archive_password)
        return (*keys, *([password] if password else []))


class S3(Feature):
    """How S3 is reached: for backups, and for the files of paid jobs."""

    title: ClassVar[str] = "S3"
    page: ClassVar[str] = "storage.md"

    s3_endpoint_url: WebAddress | None = setting(
        "S3_ENDPOINT_URL",
        default=None,
        holds="the http(s) address of an S3-compatible store",
        about="For a store that isn't Amazon's",
        empty="AWS",
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] | None = setting(
        "S3_ADDRESSING_STYLE",
        default=None,
        holds="{allowed}",
        about="Whether the bucket is in the path of an address or in its host's name",
        empty="path with S3_ENDPOINT_URL and auto without",
    )
    s3_server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = setting(
        "S3_SERVER_SIDE_ENCRYPTION",
        default=None,
        holds="{allowed}",
        about="How S3 encrypts what is stored",
        empty="the bucket's own rule",
        example="aws:kms",
    )
    s3_kms_key_id: str | None = setting(
        "S3_KMS_KEY_ID",
        default=None,
        holds="the id, ARN or alias of a KMS key, with S3_SERVER_SIDE_ENCRYPTION aws:kms or aws:kms:dsse",
        about="The key of that encryption",
        empty="the account's own key",
    )
    aws_region: str | None = setting(
        "AWS_REGION",
        default=None,
        holds="an AWS region, such as ap-northeast-2",
        about="The region of the buckets",
        empty="AWS_DEFAULT_REGION",
        example="ap-northeast-2",
    )
    aws_default_region: str | None = setting(
        "AWS_DEFAULT_REGION",
        default=None,
        holds="an AWS region",
        about="Counts where AWS_REGION is empty",
        empty="what AWS itself is configured with on this machine",
    )
    aws_access_key_id: SecretStr | None = setting(
        "AWS_ACCESS_KEY_ID",
        default=None,
        holds="an AWS access key's id",
        about="Set together with AWS_SECRET_ACCESS_KEY, or not at all",
        empty="what AWS itself is configured with on this machine",
    )
    aws_secret_access_key: SecretStr | None = setting(
        "AWS_SECRET_ACCESS_KEY", default=None, holds="an AWS access key's secret", about="The secret of that key"
    )
    aws_session_token: SecretStr | None = setting(
        "AWS_SESSION_TOKEN", default=None, holds="an AWS session token", about="The token of a temporary key"
    )
    aws_profile: str | None = setting(
        "AWS_PROFILE",
        default=None,
        holds="a profile of the AWS configuration",
        about="Which profile is used where no key is set",
    )

    @property
    def s3_options(self) -> "S3Options":
        """How S3 is reached: what is empty is left to boto3's own places."""
        from saju_ops.storage.open import S3Options

        return S3Options(
            endpoint_url=self.s3_endpoint_url, region=self.aws_region or self.aws_default_region,
            access_key_id=secret_text(self.aws_access_key_id),
            secret_access_key=secret_text(self.aws_secret_access_key),
            session_token=secret_text(self.aws_session_token), profile=self.aws_profile,
            server_side_encryption=self.s3_server_side_encryption, kms_key_id=self.s3_kms_key_id,
            addressing_style=self.s3_addressing_style,
        )  # fmt: skip

    @model_validator(mode="after")
    def _they_make_sense_together(self) -> Self:
        if self.s3_kms_key_id and self.s3_server_side_encryption in (None, "AES256"):
            raise PydanticCustomError(
                "s3_kms_key_id", "S3_KMS_KEY_ID is set, so S3_SERVER_SIDE_ENCRYPTION must be aws:kms or aws:kms:dsse"
            )
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise PydanticCustomError(
                "aws_keys", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together, or neither of them"
            )
        return self


class GoogleDrive(Feature):
    """How Google Drive is reached."""

    title: ClassVar[str] = "Google Drive"
    page: ClassVar[str] = "storage.md"

    google_application_credentials: FilePath | None = setting(
        "GOOGLE_APPLICATION_CREDENTIALS",
        default=None,
        holds="the path of a Google service account's key file",
        about="The account must have been given the folder",
        empty="what Google itself is configured with on this machine",
    )
    gdrive_api_url: WebAddress = setting(
        "GDRIVE_API_URL",
        default="https://www.googleapis.com",
        holds="the http(s) address of Google's API",
        about="For a proxy in front of Google",
    )

    @property
    def drive_options(self) -> "DriveOptions":
        from saju_ops.storage.open import DriveOptions

        return DriveOptions(self.google_application_credentials, self.gdrive_api_url)
