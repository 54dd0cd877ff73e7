"""What a leaderboard shows of each family, and of one without rows."""

from __future__ import annotations

from ccmb.benchmark.family import View, Words
from ccmb.benchmark.registry import BENCHMARKS

VIEWS: dict[str, View] = {name: family.view for name, family in BENCHMARKS.items()}
NOTHING = Words(
    "还没有结果：未找到已发表的数字，这里也没有测过。",
    "No rows yet: no published metrics are known, and none have been measured here.",
)
