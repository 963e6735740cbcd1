"""Work that goes on beside a block, and ends with it.

trio-util has it; it has no types, so this is the one place where its name is spelled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio_util

run_and_cancelling: Callable[..., AbstractAsyncContextManager[None, Any]]
"""``async with run_and_cancelling(async_fn, *args)``: run it until the block is left, and cancel it then."""
run_and_cancelling = trio_util.run_and_cancelling  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # it is untyped
