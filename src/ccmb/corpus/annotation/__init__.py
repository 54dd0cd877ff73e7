"""Judgements of people: tasks, votes, agreement, data sets."""
