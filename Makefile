# `make demo` and `make test` work on a fresh machine with Python 3.11, git and a compiler.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

.PHONY: demo test check slow gpu bench clean

demo: .venv/.installed  ## made-up cohort -> model -> figures -> report, in the folder demo
	$(BIN)/delineate demo --out demo

test: .venv/.installed  ## everything a change must pass
	@$(MAKE) --no-print-directory check
	$(PYTEST) -m "not slow and not gpu"

check:  ## style, types and walls; nothing is installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	PYTHONPATH=src $(BIN)/lint-imports

slow: .venv/.installed  ## the journeys from end to end
	$(PYTEST) -m slow

gpu: .venv/.installed  ## what only a CUDA device shows
	$(PYTEST) -n 0 -m gpu

bench: .venv/.installed  ## ours beside its peers, some minutes; ONLY=metrics,forward for some rows
	$(BIN)/python benchmarks/table.py --only "$(ONLY)" --json build/bench.json

clean:  ## what the tools left; the environment stays
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist demo

# Made anew whenever the project's requirements change.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@
