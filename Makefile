# What a developer types, in short; CONTRIBUTING.md says when. `make` lists it.
.DEFAULT_GOAL := help
.PHONY: help setup study test end-to-end check format gate nightly pages plan

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## the packages of uv.lock, with all that tests can use
	uv sync --extra s3 --extra slurm --group end-to-end --group lm-eval

plan: ## what the study of params.yaml would run, and what it would cost
	uv run python -m pipeline plan

study: ## all tables, figures and the report of params.yaml
	uv run snakemake --cores all study

test: ## the fast tests
	uv run pytest

end-to-end: ## whole studies at the micro scale
	uv run --group end-to-end pytest -m "end_to_end and not nightly"

check: ## style, types, and the workflow's lint
	uv run ruff check . && uv run ruff format --check . && uv run snakefmt --check Snakefile && uv run mypy && uv run snakemake --lint

format: ## rewrite code in the project's style
	uv run ruff check --fix . && uv run ruff format . && uv run snakefmt Snakefile

pages: ## what is written from the code: the schema, the page of bad input, the README's graph
	uv run python -m pipeline schema
	PYTHONPATH=. uv run python tests/bad_input.py
	PYTHONPATH=. uv run python tests/rulegraph.py

gate: ## what every commit has to pass, on a clean clone
	.ci/run

nightly: ## what the gate has no time for
	.ci/nightly
