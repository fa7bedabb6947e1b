# make demo    train, evaluate and draw with a Mask R-CNN on the embedded miniature data
# make test    linters (default stack only) and tests
# STACK=onedl (default) or openmmlab, PYTHON=python3.11, VENV=a folder of your own
# All of them first make the virtual environment where it is missing; see docs/install.md.

PYTHON ?= python3
STACK ?= onedl
ifeq ($(STACK),onedl)
VENV ?= .venv
else
VENV ?= .venv-$(STACK)
endif
RUN = $(VENV)/bin/python

.PHONY: env demo test lint clean

env:
	@$(PYTHON) tools/setup_env.py --stack $(STACK) --venv $(VENV)

demo: env
	rm -rf work_dirs/demo
	$(RUN) tools/train.py configs/detection/maskrcnn_iformer_t_coco.py --demo --work-dir work_dirs/demo

# The linters read the same files on either stack, so once is enough.
ifeq ($(STACK),onedl)
test: lint
endif
test: env
	$(RUN) -m pytest

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy mmiformer tools

# Environments, data and work_dirs stay: they took long to make.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
