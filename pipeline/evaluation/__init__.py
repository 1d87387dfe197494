"""Scoring of answers and the statistics of the comparisons; imports neither torch nor Composer."""
