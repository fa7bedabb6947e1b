# make demo    train, evaluate and draw with a Mask R-CNN on the embedded miniature data
# make test    linters (default stack only) and tests
# STACK=onedl (default) or openmmlab, PYTHON=python3.11, VENV=a folder of your own
# All of them first make the virtual environment where it is missing; see docs/install.md.

PYTHON ?= python3
STACK ?= onedl
ifeq ($(STACK),onedl)
VENV ?= .venv
OTHER = mmengine
else
VENV ?= .venv-$(STACK)
OTHER = onedl_mmengine
endif
RUN = $(VENV)/bin/python
DONE = $(VENV)/installed-$(STACK)
PACKAGES = $(VENV)/lib/python*/site-packages
# mmcv-lite would overwrite an mmcv that somebody has compiled in this environment.
EXTRA = $(STACK)$(if $(wildcard $(PACKAGES)/mmcv-*.dist-info),-toolboxes)
INSTALL = $(RUN) -m pip install -c constraints/$(STACK).txt -e

.PHONY: env demo test lint clean

env: $(DONE)

demo: env
	rm -rf work_dirs/demo
	$(RUN) tools/train.py configs/detection/maskrcnn_iformer_t_coco.py --demo --work-dir work_dirs/demo

# The linters read the same files on either stack, so once is enough.
ifeq ($(STACK),onedl)
test: lint
endif
# One process per core with one thread each: more threads than cores make tests slower. Files are handed out
# in collection order; each file runs in one process, so that its shared runs happen once.
test: $(DONE)-test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(DONE)-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy mmiformer tools

$(DONE): setup.py constraints/$(STACK).txt
	$(if $(wildcard $(PACKAGES)/$(OTHER)-*.dist-info),$(error $(VENV) holds the other line: name another VENV))
	@$(RUN) -m pip --version >/dev/null 2>&1 || { $(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit("Python 3.11 or 3.12 is needed, this is %d.%d: set PYTHON=python3.11" % v \
	if v not in ((3, 11), (3, 12)) else None)' && $(PYTHON) -m venv $(VENV); }
	$(INSTALL) '.[$(EXTRA)]'
	@touch $@

# With what the tools export to, several hundred MB.
$(DONE)-test: $(DONE)
	$(INSTALL) '.[$(EXTRA),test]'
	@touch $@

# Environments, data and work_dirs stay: they took long to make.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
