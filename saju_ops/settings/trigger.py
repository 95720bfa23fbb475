"""The HTTP trigger, and where Dagster's webserver is."""

from functools import cached_property
from typing import ClassVar

from saju_ops.bounds import CallsPerMinute, ListeningPort
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import listed, setting
from saju_ops.settings.values import BareWebAddress, JobNames, LongToken, WebAddress


class Trigger(Feature):
    """`saju-ops serve-trigger`: which callers it accepts, for which jobs, and the address where it listens."""

    title: ClassVar[str] = "HTTP trigger"
    page: ClassVar[str] = "trigger.md"

    cleanup_trigger_token: LongToken | None = setting(
        "CLEANUP_TRIGGER_TOKEN",
        default=None,
        holds="at least 32 visible ASCII characters without blanks, such as `openssl rand -hex 32` prints",
        about="The token that callers send; without it `saju-ops serve-trigger` doesn't start",
    )
    trigger_token_in_url: bool = setting(
        "TRIGGER_TOKEN_IN_URL",
        default=False,
        holds="true or false; true lets callers that can't send a header put the token into the address as ?token=",
        about="Whether the token may be in the address",
    )
    trigger_jobs_list: JobNames = setting(
        "TRIGGER_JOBS",
        default="",
        holds="names of jobs that may be started over HTTP, separated by commas, such as purge_expired_jobs",
        about="Jobs that callers may start besides the clean-up",
    )
    trigger_calls_per_minute: CallsPerMinute = setting(
        "TRIGGER_CALLS_PER_MINUTE",
        default=1200,
        holds="a whole number {allowed}",
        about="Calls with the right token that are answered in a minute",
    )
    trigger_host: str = setting(
        "TRIGGER_HOST",
        default="127.0.0.1",
        holds="an address of this machine to listen on, such as 127.0.0.1 or 0.0.0.0",
        about="Where the trigger listens",
    )
    trigger_port: ListeningPort | None = setting(
        "TRIGGER_PORT",
        default=None,
        holds="a port {allowed}, where 0 means any that is free",
        about="The port on which it listens",
        empty="PORT, and without that 8080",
        example="8080",
    )

    @cached_property
    def trigger_jobs(self) -> tuple[str, ...]:
        return listed(self.trigger_jobs_list)


class DagsterAddresses(Feature):
    """Where Dagster's webserver is, for the trigger, and for operators."""

    title: ClassVar[str] = "Dagster"
    page: ClassVar[str] = "deployment.md"

    dagster_webserver_url: BareWebAddress = setting(
        "DAGSTER_WEBSERVER_URL",
        default="http://127.0.0.1:3000",
        holds="the http:// or https:// address of Dagster's webserver, without user, password, query or fragment",
        about="Where the trigger finds Dagster's webserver",
    )
    dagster_ui_url: WebAddress | None = setting(
        "DAGSTER_UI_URL",
        default=None,
        holds="the http(s) address under which operators see the Dagster UI, for the links in alerts",
        about="The address of the links in alerts",
        empty="DAGSTER_WEBSERVER_URL",
        example="http://127.0.0.1:3000",
    )

    @property
    def ui_url(self) -> str:
        return (self.dagster_ui_url or self.dagster_webserver_url).rstrip("/")
