# make train, make test: the whole set-up and the job, on a fresh checkout.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/digits_cbam
WORKERS ?= 2
POD ?= imagenet_resnet50 imagenet_cbam_resnet50 imagenet_attention56

.PHONY: help train test test-slow test-ci test-full test-notebooks docs faults pod pod-all lint clean

help:
	@echo "make train           train CBAM-ResNet-20 on the embedded digits (RUN=$(RUN)): a minute or two on two CPU cores"
	@echo "make test            the tests of one net and block of each kind, but for the long ones, WORKERS=$(WORKERS) at a time"
	@echo "make test-slow       the long tests: whole runs, kills"
	@echo "make test-ci         both, which is what must pass before a change lands"
	@echo "make test-full       all tests, of every net, block and setting: an hour or two"
	@echo "make test-notebooks  run the notebooks: some minutes"
	@echo "make docs            build the documentation into docs/_build/html, warnings as errors"
	@echo "make faults          kill training runs at 60 random moments, saves included: each must end as the unbroken one"
	@echo "make pod             compile three training steps for 256 TPU chips, without one: minutes each (POD=...)"
	@echo "make pod-all         the same for all ImageNet configs, and the largest batches that fit: hours; goes on where it stopped"
	@echo "make lint            style (ruff) and types (mypy)"
	@echo "make clean           remove $(VENV)"

train: $(VENV)/train.done
	$(BIN)/python -m train digits_cbam --workdir $(RUN)

test: $(VENV)/dev.done
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist worksteal

test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -m slow --numprocesses $(WORKERS) --dist worksteal

test-ci: $(VENV)/dev.done
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test-full: $(VENV)/dev.done
	$(BIN)/python -m pytest --full --numprocesses $(WORKERS) --dist worksteal

test-notebooks: $(VENV)/dev.done
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 --numprocesses $(WORKERS) notebooks

docs: $(VENV)/docs.done
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -q --fail-on-warning --keep-going -b html docs docs/_build/html

faults: $(VENV)/dev.done
	$(BIN)/python -m tests.train.faults

pod: $(VENV)/train.done $(VENV)/aot.done
	$(BIN)/python -m train.aot_table $(POD)

pod-all: $(VENV)/train.done $(VENV)/aot.done
	$(BIN)/python -m train.aot_table $(wildcard configs/imagenet/*.py) --find_batch --out docs/results/aot_table.md

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/docs.done: $(VENV)/dev.done  # not both at once

$(VENV)/%.done: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@
