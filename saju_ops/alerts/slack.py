"""Slack as a channel. The client is handed in; this module says what its answers mean for the operator.

A message is repeated only if Slack's own answer was lost. Slack's refusals are of two kinds. One about the token, the
channel or the workspace stops the channel for a while, and no message is lost. One about a single message leaves the
others unaffected, and that message is sent again, short and without blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from zoneinfo import ZoneInfo

from saju_ops.alerts.blocks import escaped, plain, rendered
from saju_ops.alerts.channels import ChannelFailed, MessageRefused
from saju_ops.alerts.redact import Redactor
from saju_ops.reports.message import Message, utc_now

if TYPE_CHECKING:
    from slack_sdk import WebClient

# Seconds for one request. A sensor's tick has 60 s, and other messages want to go as well.
TIMEOUT = 8
# A pause that Slack asks for is waited out on the spot up to here; a longer one is left to the next tick.
SHORT_PAUSE = 3
# Seconds before the one retry of a request that failed on its way, or with HTTP 500 or 503.
RETRY_PAUSE = 0.5
PAGE = 200
PAGES = 100
CHANNEL_ID = re.compile(r"[CGD][A-Z0-9]{7,}")

# What Slack's `error` means, in the operators' words. Source: the error tables of chat.postMessage, conversations.list,
# auth.test and files.completeUploadExternal in docs.slack.dev/reference/methods.
CHANNEL_ERRORS = {
    "invalid_auth": "Slack 토큰이 유효하지 않습니다 (invalid token). SLACK_BOT_TOKEN을 확인하세요.",
    "not_authed": "Slack 토큰이 전달되지 않았습니다 (no token). SLACK_BOT_TOKEN을 확인하세요.",
    "token_expired": "Slack 토큰이 만료되었습니다 (token expired). 새 토큰을 SLACK_BOT_TOKEN에 넣으세요.",
    "token_revoked": "Slack 토큰이 취소되었습니다 (token revoked). 새 토큰을 SLACK_BOT_TOKEN에 넣으세요.",
    "account_inactive": "Slack 토큰의 계정이나 워크스페이스가 비활성화되었습니다 (account inactive).",
    "not_allowed_token_type": "Slack 토큰의 종류가 다릅니다 (wrong token type). xoxb-로 시작하는 봇 토큰이 필요합니다.",
    "no_permission": "Slack 토큰에 이 작업의 권한이 없습니다 (no permission). 앱의 권한을 확인하세요.",
    "access_denied": "Slack이 접근을 거부했습니다 (access denied). 워크스페이스의 앱 설정을 확인하세요.",
    "org_login_required": "Slack 워크스페이스가 이전 중입니다 (org login required). 끝나면 다시 보냅니다.",
    "ekm_access_denied": "Slack 워크스페이스의 관리자가 메시지 전송을 막았습니다 (EKM access denied).",
    "team_access_not_granted": "이 워크스페이스에 대한 권한이 토큰에 없습니다 (team access not granted).",
    "team_added_to_org": "Slack 워크스페이스가 조직으로 이전 중입니다 (team added to org). 끝나면 다시 보냅니다.",
    "missing_scope": "Slack 앱에 권한이 부족합니다 (missing scope).",
    "not_in_channel": "봇이 채널에 없습니다 (not in channel). Slack에서 `/invite @봇이름`으로 초대하세요.",
    "channel_not_found": "Slack 채널을 찾을 수 없습니다 (unknown channel). SLACK_CHANNEL을 확인하고, 비공개 채널이면"
    " 봇을 초대하세요.",
    "is_archived": "Slack 채널이 보관되었습니다 (archived channel). SLACK_CHANNEL을 바꾸거나 채널을 되살리세요.",
    "restricted_action": "워크스페이스 설정이 이 채널에 쓰는 것을 막습니다 (restricted action).",
    "restricted_action_read_only_channel": "Slack 채널이 읽기 전용입니다 (read-only channel).",
    "restricted_action_thread_only_channel": "Slack 채널에는 스레드로만 쓸 수 있습니다 (thread-only channel).",
    "restricted_action_non_threadable_channel": "Slack 채널에는 스레드를 달 수 없습니다 (non-threadable channel).",
    "ratelimited": "Slack의 전송 한도를 넘었습니다 (rate limited). 잠시 뒤 다시 보냅니다.",
    "rate_limited": "Slack의 전송 한도를 넘었습니다 (rate limited). 잠시 뒤 다시 보냅니다.",
    "message_limit_exceeded": "Slack 워크스페이스의 메시지 한도를 넘었습니다 (message limit exceeded).",
    "service_unavailable": "Slack이 일시적으로 응답하지 않습니다 (service unavailable).",
    "internal_error": "Slack 내부 오류입니다 (internal error). 다시 보냅니다.",
    "fatal_error": "Slack 내부 오류입니다 (fatal error). 다시 보냅니다.",
    "request_timeout": "Slack이 요청을 다 받지 못했습니다 (request timeout). 다시 보냅니다.",
    "accesslimited": "Slack이 이 주소에서의 접근을 제한합니다 (access limited).",
}
# Channel errors that are Slack's own passing trouble: nothing that an operator could mend.
PASSING = {"ratelimited", "rate_limited", "service_unavailable", "internal_error", "fatal_error", "request_timeout"}


def set_up(client: WebClient, api_url: str) -> WebClient:
    """A client with this project's limits: short time-outs and slack_sdk's own retry handlers, one retry each."""
    from slack_sdk.http_retry.builtin_handlers import (
        ConnectionErrorRetryHandler,
        RateLimitErrorRetryHandler,
        ServerErrorRetryHandler,
    )
    from slack_sdk.http_retry.builtin_interval_calculators import FixedValueRetryIntervalCalculator

    class ShortPauses(RateLimitErrorRetryHandler):
        """Waits out Slack's Retry-After only while that is short: the tick has other work."""

        def _can_retry(self, *, state: Any, request: Any, response: Any = None, error: Any = None) -> bool:
            asked = super()._can_retry(state=state, request=request, response=response, error=error)
            return asked and (retry_after(response.headers) or 0) <= SHORT_PAUSE

    client.base_url = api_url if api_url.endswith("/") else f"{api_url}/"
    client.timeout = TIMEOUT
    pause = FixedValueRetryIntervalCalculator(RETRY_PAUSE)
    client.retry_handlers = [
        ConnectionErrorRetryHandler(max_retry_count=1, interval_calculator=pause),
        ServerErrorRetryHandler(max_retry_count=1, interval_calculator=pause),
        ShortPauses(max_retry_count=1),
    ]
    return client


def retry_after(headers: Any) -> float | None:
    """The seconds of a Retry-After header. Its value may be a list, and its name in any case."""
    for name, value in dict(headers or {}).items():
        if name.lower() == "retry-after":
            text = value[0] if isinstance(value, list) and value else value
            try:
                return max(0.0, float(text))
            except (TypeError, ValueError):
                return None
    return None


class Slack:
    """One Slack channel. `remembered` and `remember` keep a name's id, so that it is looked up once."""

    name = "slack"
    gathers = True

    def __init__(
        self, client: WebClient, channel: str, zone: ZoneInfo, redact: Redactor,
        remembered: Callable[[str], Any] = lambda _: None, remember: Callable[[str, Any], None] = lambda _k, _v: None,
    ) -> None:  # fmt: skip
        self._client, self._zone, self._redact = client, zone, redact
        self._wanted = channel.strip().removeprefix("#")
        self._remembered, self._remember = remembered, remember
        self._key = f"slack_channel:{self._wanted}"

    def close(self) -> None:
        """Nothing is kept open."""

    def send(self, message: Message) -> str:
        message = self._redact.message(message)
        try:
            return self._post(rendered(message, self._zone, utc_now()))
        except MessageRefused:
            # Whatever it is that Slack doesn't like about the blocks: the words must arrive.
            return self._post(plain(message, self._zone, utc_now()))

    def note(self, text: str, reference: str) -> None:
        channel, _, thread = reference.partition("|")
        self._call(
            self._client.chat_postMessage, channel=channel, thread_ts=thread, text=escaped(self._redact(text)),
            unfurl_links=False, unfurl_media=False,
        )  # fmt: skip

    def attach(self, title: str, filename: str, content: bytes, reference: str) -> None:
        channel, _, thread = reference.partition("|")
        self._call(
            self._client.files_upload_v2, channel=channel, thread_ts=thread, content=content, filename=filename,
            title=title,
        )  # fmt: skip

    def who(self) -> str:
        """Asks Slack for the token's owner; posts nothing."""
        answer = self._call(self._client.auth_test)
        return f"#{self._wanted}, {answer.get('team', '?')}, @{answer.get('user', '?')}"

    def check(self) -> str:
        answer = self._call(self._client.auth_test)
        text = "🔔 saju_ops 테스트 메시지입니다. (test message)"
        reference = self._post({"text": text})
        team, user = answer.get("team", "?"), answer.get("user", "?")
        return f"Slack: #{self._wanted} ({reference.partition('|')[0]}), {team}, @{user}"

    # --- requests ------------------------------------------------------------------------------------------------

    def _post(self, content: dict[str, Any]) -> str:
        """Posts to the channel; a remembered id that is gone is looked up anew, once."""
        was_remembered = self._remembered(self._key) is not None
        try:
            return self._post_to(self._channel_id(), content)
        except ChannelFailed as failed:
            if not was_remembered or failed.code != "channel_not_found":
                raise
        self._remember(self._key, None)
        return self._post_to(self._channel_id(), content)

    def _post_to(self, channel: str, content: dict[str, Any]) -> str:
        answer = self._call(
            self._client.chat_postMessage, channel=channel, unfurl_links=False, unfurl_media=False, **content
        )
        where = answer.get("channel") or channel
        return f"{where}|{answer.get('ts') or ''}"

    def _channel_id(self) -> str:
        if CHANNEL_ID.fullmatch(self._wanted):
            return self._wanted
        known = self._remembered(self._key)
        if known:
            return str(known)
        try:
            found = self._look_up("public_channel,private_channel")
        except ChannelFailed as failed:
            if failed.code != "missing_scope":
                raise
            found = self._look_up_with_less()
        if found is None:
            raise _failed("channel_not_found", f"채널 #{self._wanted}")
        self._remember(self._key, found)
        return found

    def _look_up_with_less(self) -> str | None:
        """Without groups:read only public channels are listed; without channels:read Slack itself takes the name."""
        try:
            found = self._look_up("public_channel")
        except ChannelFailed as failed:
            if failed.code != "missing_scope":
                raise
            return f"#{self._wanted}"
        return found or f"#{self._wanted}"

    def _look_up(self, types: str) -> str | None:
        cursor = ""
        for _ in range(PAGES):
            answer = self._call(
                self._client.conversations_list, types=types, limit=PAGE, exclude_archived=True, cursor=cursor
            )
            for channel in answer.get("channels") or []:
                if channel.get("name") == self._wanted or channel.get("name_normalized") == self._wanted:
                    return str(channel["id"])
            cursor = (answer.get("response_metadata") or {}).get("next_cursor") or ""
            if not cursor:
                break
        return None

    def _call(self, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        """A request whose answer says that it was done. Everything else becomes one of the two failures."""
        from slack_sdk.errors import SlackApiError, SlackClientError

        try:
            answer = method(**arguments)
        except SlackApiError as error:
            raise self._from_answer(error.response) from None
        except SlackClientError as error:
            # What files_upload_v2 raises where the upload itself wasn't taken; its text quotes the server's.
            raise ChannelFailed(f"Slack이 파일을 받지 않았습니다 ({type(error).__name__}).") from None
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            said = self._redact(str(reason) or type(reason).__name__).splitlines()[0][:200]
            raise ChannelFailed(f"Slack에 연결할 수 없습니다 ({type(reason).__name__}: {said}).") from None
        except ValueError as error:
            sentence = f"Slack의 응답을 읽을 수 없습니다 ({type(error).__name__})."
            raise ChannelFailed(sentence, maybe_message=True) from None
        data = answer.data
        if not isinstance(data, dict) or data.get("ok") is not True:
            raise self._from_answer(answer)
        return data

    def _from_answer(self, answer: Any) -> ChannelFailed | MessageRefused:
        data = answer.data if isinstance(getattr(answer, "data", None), dict) else {}
        status = getattr(answer, "status_code", 200)
        pause = retry_after(getattr(answer, "headers", None))
        code = str(data.get("error") or "")[:100]
        if status == 429:
            return _failed("ratelimited", "", pause if pause is not None else 30.0)
        if status >= 500:
            return ChannelFailed(f"Slack이 오류로 응답했습니다 (HTTP {status}).", pause, maybe_message=True)
        if code in CHANNEL_ERRORS:
            details = f"필요: {data['needed']}" if data.get("needed") else ""
            if code in ("not_in_channel", "channel_not_found", "is_archived"):
                details = f"채널 #{self._wanted}"
            return _failed(code, details, pause)
        if not data or status != 200:
            return ChannelFailed(f"Slack이 알 수 없는 응답을 보냈습니다 (HTTP {status}).", pause, maybe_message=True)
        return MessageRefused(f"Slack이 메시지를 거절했습니다 ({self._redact(code) or 'ok: false'}).")


def _failed(code: str, details: str, pause: float | None = None) -> ChannelFailed:
    sentence = CHANNEL_ERRORS.get(code, "")
    text = f"{sentence} ({details})" if sentence and details else sentence or details
    return ChannelFailed(text, pause, code=code)
