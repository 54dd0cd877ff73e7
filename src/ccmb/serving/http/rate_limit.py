"""The rate limit: a token bucket for each client."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimiter:
    """Token buckets: each holds up to `burst` tokens and gains `rate` a second; a request takes one or a part of one.

    Args:
        rate: requests per second in the long run; 0 is no limit.
        burst: requests at once.
        max_clients: the number of buckets to keep; beyond it, the client that asked longest ago is forgotten.
    """

    def __init__(
        self, rate: float, burst: float, max_clients: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self.max_clients, self._clock = rate, max(burst, 1.0), max_clients, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was

    def wait(self, client: str, cost: float = 1.0) -> int:
        """Take `cost` tokens and return 0; if there are too few, take none and return the whole seconds to wait."""
        if not self.rate:
            return 0
        now = self._clock()
        tokens, before = self._buckets.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - before) * self.rate)
        missing = cost - tokens
        self._buckets[client] = (tokens if missing > 0 else tokens - cost, now)
        while len(self._buckets) > self.max_clients:
            self._buckets.popitem(last=False)
        return max(1, math.ceil(missing / self.rate)) if missing > 0 else 0
