"""The benchmark: it measures models on sets, writes one result file each, and makes the leaderboard."""
