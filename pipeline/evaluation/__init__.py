"""Per-example scores of a model, and the statistics of the comparisons."""
