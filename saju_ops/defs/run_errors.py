"""Keeps secrets out of errors that an op, an asset, a check, a sensor or a schedule raises.

Dagster keeps the texts of such errors in its history and shows them in the UI. Here every value of a secret setting and
every login of an address is hidden in them, and in the errors that led to them, wherever they were raised.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

import dagster as dg

from saju_ops.logins import chain_of, hide_in_error, hide_logins

Function = TypeVar("Function", bound=Callable[..., Any])


class HiddenError(Exception):
    """Replaces an error whose own text can't be changed."""


def without_secrets(function: Function) -> Function:
    """The innermost decorator of every function that Dagster calls: its errors then hold no secret."""

    @wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            _hide(error)
            raise

    @wraps(function)
    def yielding(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except Exception as error:
            _hide(error)
            raise

    return cast("Function", yielding if inspect.isgeneratorfunction(function) else calling)


def _hide(error: Exception) -> None:
    """Errors:
    HiddenError: the error makes its text anew whenever it is asked, with a secret in it.
    """
    hide = _hiding()
    hide_in_error(error, hide)
    for one in chain_of(error):
        if isinstance(one, dg.Failure) and one.description is not None:
            one.description = hide(one.description)
    said = [_said(one) for one in chain_of(error)]
    if any(hide(text) != text for text in said):
        raise HiddenError(hide("; from: ".join(said))).with_traceback(error.__traceback__) from None


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _hiding() -> Callable[[str], str]:
    """By the values of the settings, or where these can't be read by the forms of logins alone."""
    from saju_ops.settings.load import load_settings
    from saju_ops.settings.settings import SettingsError
    from saju_ops.wiring import redactor

    try:
        return redactor(load_settings())
    except SettingsError:
        return hide_logins
