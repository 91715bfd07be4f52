# All that is done with this repository, each by one word. Everything is installed into .venv and nowhere else.
#
#   make setup PYTHON=python3.12          another interpreter than the first one on the PATH that is new enough
#   make setup TORCH_INDEX=<address>      PyTorch from another index than pip's own: on Linux the one of its CPU wheels (PyTorch's page on
#                                         installing names it as --index-url) saves a download of some gigabytes of CUDA
#   make setup PIP_ARGS=...               any other options for pip

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.outlay-ready

export PYTHON TORCH_INDEX PIP_ARGS

.DEFAULT_GOAL := help
.PHONY: help setup demo test check train clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## create .venv with everything in it; again only when pyproject.toml changes

$(READY): pyproject.toml scripts/setup scripts/constraints.txt
	@scripts/setup $(VENV) && touch $(READY)

demo: setup ## 200 puzzles through the gateway: accuracy, cost and latency of every plan (DEMO_ARGS="--puzzles 40")
	@$(BIN)/python -m fleet.demo $(DEMO_ARGS)

test: setup ## set up, then everything that must hold: style, types, import contracts, tests
	@scripts/check $(BIN)

check: ## the same without setting up
	@scripts/check $(BIN)

train: setup ## train the fleet anew, about three and a half hours (TRAIN_ARGS="--device cuda")
	@$(BIN)/python -m fleet.train all $(TRAIN_ARGS)

clean: ## remove what tools and runs left behind, but not .venv
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info outlay-demo
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
