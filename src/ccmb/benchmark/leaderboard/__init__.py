"""The leaderboard: results and published rows as one table, in Markdown, CSV and HTML."""
