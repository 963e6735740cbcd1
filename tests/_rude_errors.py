"""Errors that are no ``Exception``, and groups of such."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class RudeError(BaseException):
    """An error of user code that most of what catches errors lets through."""


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("group", errors)
