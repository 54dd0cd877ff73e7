"""Ranked lists and graded truth: TREC's and T2Ranking's files, metrics of grades, and two lists compared."""
