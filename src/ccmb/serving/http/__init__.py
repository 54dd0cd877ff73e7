"""What every request passes: proxies, keys, rates, bodies, errors."""
