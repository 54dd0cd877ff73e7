"""The HTTP layer of every request: proxies, keys, rate limits, bodies, errors."""
