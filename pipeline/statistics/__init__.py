"""Estimates with their intervals, and the verdicts on the paper's claims."""
