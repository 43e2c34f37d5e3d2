# Two commands do everything on a fresh machine: `make demo` and `make test`. Each makes .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help install demo model test test-long test-models test-real test-cuda fuzz check format clean

help:
	@echo "make demo       prepare the built-in sample, train a small CTSM, evaluate it, answer three situations"
	@echo "make model      fetch the real data (you are shown the terms), prepare it and train: hours; goes on if stopped"
	@echo "make test       all quick tests (minutes)"
	@echo "make test-long  kill and resume tests that take longer"
	@echo "make test-models  every system overfits 32 conversations (minutes for each)"
	@echo "make test-real  tests on the real data in CTSM_DATA"
	@echo "make test-cuda  tests on a GPU"
	@echo "make fuzz       50,000 requests of all kinds to the service"
	@echo "make check      lint, format and strict types"
	@echo "make format     format the code"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	@touch $@

demo: install
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/demo.sh

model: install
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/model.sh

# Two processes of one thread each: most tests are small, and PyTorch's threads would wait for each other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not long and not models and not real and not cuda"

test-long: install
	$(BIN)/python -m pytest -m long

test-models: install
	$(BIN)/python -m pytest -m models

test-real: install
	$(BIN)/python -m pytest -m real

test-cuda: install
	$(BIN)/python -m pytest -m cuda

fuzz: install
	CTSM_FUZZ_CASES=50000 $(BIN)/python -m pytest tests/serving/api/test_api_fuzz.py tests/serving/api/test_api_schema.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/sample prepared/sample
