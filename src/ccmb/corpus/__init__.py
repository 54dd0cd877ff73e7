"""Zero: click logs and web pages -> filtered, deduplicated pairs. Daft does the work on tables."""

import os

# Read by Daft when it is first imported: no telemetry, and no bars of its own.
os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
