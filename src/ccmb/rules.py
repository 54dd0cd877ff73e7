"""How the second stage may score a pair; what each rule computes is said in `ccmb.r2d2.ranking`."""

from __future__ import annotations

from typing import Literal

RankingRule = Literal["sum", "log_odds"]
