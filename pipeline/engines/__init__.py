"""The study as Snakemake and DVC see it."""
