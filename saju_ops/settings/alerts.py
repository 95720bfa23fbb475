"""Alerts: Slack, e-mail, and how often an operator is reminded."""

from functools import cached_property
from typing import ClassVar, Literal

from pydantic import SecretStr

from saju_ops.bounds import AlertHours, AttachmentMegabytes, Port
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import setting
from saju_ops.settings.values import Ascii, AsciiSecret, Cron, MailAddress, MailAddresses, MailServerName, WebAddress


class Alerts(Feature):
    """What holds for every channel."""

    title: ClassVar[str] = "Alerts"
    page: ClassVar[str] = "alerts.md"

    alert_reminder_hours: AlertHours = setting(
        "ALERT_REMINDER_HOURS",
        default=24,
        holds="a whole number of hours {allowed} after which a problem that lasts is reported again",
        about="Hours between two messages about the same problem",
    )
    alert_run_hours: AlertHours = setting(
        "ALERT_RUN_HOURS",
        default=12,
        holds="a whole number of hours {allowed} after which a run that hasn't ended counts as hanging",
        about="Hours after which a run counts as hanging",
    )
    weekly_digest_cron: Cron = setting(
        "WEEKLY_DIGEST_CRON",
        default="0 10 * * 1",
        holds="a cron line of five fields, such as '0 10 * * 1'",
        about="When the weekly digest is sent, in TIMEZONE",
    )


class Slack(Feature):
    """The Slack channel."""

    title: ClassVar[str] = "Slack"
    page: ClassVar[str] = "alerts.md"

    slack_bot_token: SecretStr | None = setting(
        "SLACK_BOT_TOKEN",
        default=None,
        holds="a bot token",
        about="`saju-ops test-alert` tries every channel",
        empty="that alerts are in the logs of the runs only, unless e-mail is set up",
        example="xoxb-...",
    )
    slack_channel: str = setting(
        "SLACK_CHANNEL", default="ai-reports", holds="a channel's name or id", about="The channel of all messages"
    )
    slack_api_url: WebAddress = setting(
        "SLACK_API_URL",
        default="https://slack.com/api/",
        holds="an http(s) address, such as https://slack.com/api/",
        about="For a proxy in front of Slack",
    )
    slack_attach: Literal["off", "encrypted", "always"] = setting(
        "SLACK_ATTACH",
        default="encrypted",
        holds="off, encrypted (only archives that are password-protected) or always",
        about="Which archives are sent with their message",
    )
    slack_attach_max_mb: AttachmentMegabytes = setting(
        "SLACK_ATTACH_MAX_MB",
        default=20,
        holds="a whole number of megabytes {allowed}; for a larger file only the path is sent",
        about="Megabytes of the largest file that is sent",
    )


class Email(Feature):
    """The mail server, and who gets mail."""

    title: ClassVar[str] = "E-mail"
    page: ClassVar[str] = "alerts.md"

    smtp_host: MailServerName | None = setting(
        "SMTP_HOST",
        default=None,
        holds="a mail server's name",
        about="E-mail is sent where this, ALERT_EMAIL_FROM and ALERT_EMAIL_TO are set",
        empty="no e-mail",
        example="smtp.example.com",
    )
    smtp_port: Port = setting("SMTP_PORT", default=587, holds="a port {allowed}", about="The mail server's port")
    smtp_security: Literal["auto", "starttls", "tls", "none"] = setting(
        "SMTP_SECURITY",
        default="auto",
        holds="auto (tls on port 465, starttls on every other), starttls, tls, or none, which sends in the clear",
        about="How the connection is encrypted",
    )
    smtp_user: Ascii | None = setting(
        "SMTP_USER",
        default=None,
        holds="the mail server's user, in ASCII",
        about="The user at the mail server",
        empty="no login",
    )
    smtp_password: AsciiSecret | None = setting(
        "SMTP_PASSWORD", default=None, holds="the mail server's password, in ASCII", about="The password of that user"
    )
    alert_email_from: MailAddress | None = setting(
        "ALERT_EMAIL_FROM",
        default=None,
        holds="an e-mail address, such as ops@example.com; needed where SMTP_HOST is set",
        about="The sender of all messages",
        example="saju-ops@example.com",
    )
    alert_email_to: MailAddresses | None = setting(
        "ALERT_EMAIL_TO",
        default=None,
        holds="e-mail addresses, separated by commas; needed where SMTP_HOST is set",
        about="Who gets the messages",
        example="ops@example.com",
    )

    @cached_property
    def email_recipients(self) -> tuple[str, ...]:
        return tuple(each.strip() for each in (self.alert_email_to or "").split(","))
