"""dagster-aws' S3 resource, as the storage needs it.

dagster-aws gives its client a region, an endpoint, credentials and a number of attempts. It gives it no time-outs, no
addressing style, no number of connections and no checksum mode, without which an upload to another store than AWS fails
or a broken connection hangs. So the resource has these as fields, and its client is the one that the command line
has too.

Dagster reads the fields' annotations when the class is defined, so this module can't postpone their evaluation.
"""

from typing import Any

from dagster_aws.s3 import S3Resource

from saju_ops.storage.s3.address import MAX_ATTEMPTS, READ_SECONDS, S3Options
from saju_ops.storage.s3.client import s3_client


class BackupS3(S3Resource):
    """The S3 of BACKUP_URI. It is made for one client at a time and is in no definitions: Dagster shows the fields of
    those in its UI, and some of these are secrets."""

    max_attempts: int = MAX_ATTEMPTS
    addressing_style: str | None = None
    read_seconds: float = READ_SECONDS

    def get_client(self) -> Any:
        return s3_client(
            S3Options(
                endpoint_url=self.endpoint_url, region=self.region_name, access_key_id=self.aws_access_key_id,
                secret_access_key=self.aws_secret_access_key, session_token=self.aws_session_token,
                profile=self.profile_name, addressing_style=self.addressing_style,  # type: ignore[arg-type]
                max_attempts=self.max_attempts, read_seconds=self.read_seconds,
            )
        )  # fmt: skip


def client_of(options: S3Options) -> Any:
    resource = BackupS3(
        endpoint_url=options.endpoint_url, region_name=options.region, aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key, aws_session_token=options.session_token,
        profile_name=options.profile, addressing_style=options.addressing_style, max_attempts=options.max_attempts,
        read_seconds=options.read_seconds,
    )  # fmt: skip
    return resource.get_client()
