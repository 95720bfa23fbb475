"""What delivery asks of a channel, and the two ways in which a channel can fail."""

from __future__ import annotations

from typing import Protocol

from saju_ops.reports.message import Message


class ChannelFailed(Exception):
    """The channel takes nothing at present; messages wait. `sentence` is for the operator, without any secret;
    `retry_after` is the seconds that the other side asked to be left alone; `maybe_message` says that the message
    itself might be the cause, as with an HTTP 500; `code` is the other side's own name for it."""

    def __init__(
        self, sentence: str, retry_after: float | None = None, *, maybe_message: bool = False, code: str = ""
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.retry_after = retry_after
        self.maybe_message = maybe_message
        self.code = code


class MessageRefused(Exception):
    """This one message isn't taken; others may be."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class Channel(Protocol):
    name: str
    # Whether many waiting messages are sent as one.
    gathers: bool

    def send(self, message: Message) -> str:
        """Delivers it; returns where it is, for files that follow. Raises ChannelFailed or MessageRefused."""

    def attach(self, title: str, filename: str, content: bytes, reference: str) -> None:
        """A file below a message that `send` delivered. Raises ChannelFailed or MessageRefused."""

    def note(self, text: str, reference: str) -> None:
        """A line below a message that `send` delivered. Raises ChannelFailed or MessageRefused."""

    def check(self) -> str:
        """Sends a test message and says where it went. Raises ChannelFailed or MessageRefused."""

    def close(self) -> None: ...
