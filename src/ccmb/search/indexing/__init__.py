"""From folders, tars, tables and URLs of images to the entries of an index."""
