# make train, make test: the whole set-up and the job, on a fresh checkout.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/digits_cbam

.PHONY: help train test test-slow lint clean

help:
	@echo "make train      train CBAM-ResNet-20 on the embedded digits (RUN=$(RUN)): a minute or two on two CPU cores"
	@echo "make test       the tests, but for the long ones"
	@echo "make test-slow  the long tests: whole runs, kills"
	@echo "make lint       style (ruff) and types (mypy)"
	@echo "make clean      remove $(VENV)"

train: $(VENV)/train.done
	$(BIN)/python -m train configs/digits_cbam.py --workdir $(RUN)

test: $(VENV)/dev.done
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.done: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@
