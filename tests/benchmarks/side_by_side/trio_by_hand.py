"""A channel, a limiter, a trio task and a scope for each item: sent one by one, while they are handled."""

from __future__ import annotations

import trio

from ..by_hand import by_hand
from ..measuring import MICRO
from . import LOAD

if __name__ == "__main__":
    print(min(trio.run(by_hand, LOAD) for _ in range(3)) * MICRO)
