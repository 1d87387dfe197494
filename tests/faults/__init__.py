"""Drills: what happens to jobs and engines, and that the same command again ends in the same bits."""
