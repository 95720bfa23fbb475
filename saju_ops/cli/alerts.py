"""`saju-ops test-alert`: a test message on each channel, and in words what went wrong. Touches nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings


@click.command("test-alert")
def test_alert() -> None:
    """Sends a test message to Slack and by e-mail, and says what went wrong."""
    lines, well = try_channels(load_settings())
    for line in lines:
        click.echo(line)
    sys.exit(0 if well else 1)


def try_channels(settings: Settings) -> tuple[list[str], bool]:
    """A line for each channel, and whether every configured channel took its message. Without any, the answer is no."""
    from saju_ops.wiring import email_channel, email_is_set_up, email_problem, slack_channel, slack_client

    lines: list[str] = []
    results: list[bool] = []
    if settings.slack_bot_token is None:
        lines.append("     Slack: SLACK_BOT_TOKEN is not set; alerts stand in the log of each run only")
    else:
        results.append(_try("Slack", lambda: slack_channel(settings, slack_client(settings)).check(), lines))
    if email_is_set_up(settings):
        results.append(_try("E-mail", lambda: email_channel(settings).check(), lines))
    else:
        problem = email_problem(settings)
        lines.append(f"FAIL {problem}" if problem else "     E-mail: SMTP_HOST is not set; none is sent")
        results += [False] if problem else []
    return lines, bool(results) and all(results)


def _try(name: str, check: Callable[[], str], lines: list[str]) -> bool:
    from saju_ops.alerts.channels import ChannelFailed, MessageRefused

    try:
        lines.append(f"ok   {check()}")
    except (ChannelFailed, MessageRefused) as failed:
        lines.append(f"FAIL {name}: {failed.sentence}")
        return False
    except Exception as error:
        # A diagnostic command must not end in a stack trace, which may hold the token.
        lines.append(f"FAIL {name}: {type(error).__name__}")
        return False
    return True
