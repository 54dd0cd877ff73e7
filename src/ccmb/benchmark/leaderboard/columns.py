"""The columns of each family in the leaderboard, and the note for a family without rows."""

from __future__ import annotations

from ccmb.benchmark.family import BilingualText, View
from ccmb.benchmark.registry import BENCHMARKS

VIEWS: dict[str, View] = {name: family.view for name, family in BENCHMARKS.items()}
NOTHING = BilingualText(
    "还没有结果：未找到已发表的数字，这里也没有测过。",
    "No rows yet: no published metrics are known, and none have been measured here.",
)
