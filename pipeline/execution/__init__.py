"""Running one job: its process, its ranks, its signals and its log."""
