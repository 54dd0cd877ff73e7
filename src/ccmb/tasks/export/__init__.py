"""What an export gains and costs."""
