"""The errors that reach an operator: each message is a sentence that can be acted on."""

from __future__ import annotations

from saju_ops.logins import hide_logins


class OperatorError(Exception):
    """What happened, to what, what was left untouched and what to do. Never a user's message text, never a login."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(hide_logins(each) if isinstance(each, str) else each for each in args))


class Busy(OperatorError):
    """Another run works on the same thing. Nothing was done; launch again when it has ended."""


class Refused(OperatorError):
    """The request itself can't be carried out safely. Nothing was touched."""


class ProofFailed(OperatorError):
    """What was read back differs from what should be there. Nothing relies on it and nothing was deleted."""


class TornCopy(ProofFailed):
    """The parts of a copy don't belong together, or one of them is cut."""


class SettingsError(ValueError):
    """One or more settings, or the `.env` file, hold unusable values. The message is for the operator."""


def shown(text: str) -> str:
    """A name from a store or a server, fit for a line of a message: what isn't printed, such as a line's end or the
    beginning of a terminal's commands, as Python writes it. No name begins a line that only looks like one of ours."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
