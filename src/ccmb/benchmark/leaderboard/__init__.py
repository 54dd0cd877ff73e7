"""Results and published rows as one table: Markdown, CSV, a page."""
