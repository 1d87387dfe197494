"""From settings to jobs: what is made, from what, and which experiments, tables and claims need it."""
