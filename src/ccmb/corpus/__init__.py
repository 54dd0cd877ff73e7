"""Zero: click logs and web pages -> filtered, deduplicated pairs. Daft does the work on tables."""
