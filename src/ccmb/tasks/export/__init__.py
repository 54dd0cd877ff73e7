"""The gains and costs of an export."""
