"""Any model on any set, one result a file, and the table of all of them beside the published rows."""
