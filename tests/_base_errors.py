"""Errors that are a BaseException but no Exception, and groups of them."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class PlainBaseError(BaseException):
    """An error of user code that ``except Exception`` does not catch."""


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("group", errors)
