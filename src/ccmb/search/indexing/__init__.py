"""Building an index: folders, tars, tables and URLs of images become entries."""
