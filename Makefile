# Everything starts here: `make demo`, `make test`, `make check`. Each installs what it needs, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 2
IN_PARALLEL = -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
# `make quick`: folders without peers, network or node, less the files in them that take long
QUICK := tests/domain tests/files tests/reference tests/validation tests/imaging tests/dicom $(wildcard tests/test_*.py)
NOT_QUICK := _on_bodies.py samples.py real_sources.py pair_inspection.py prior_alignment.py imaging/test_ct_agreement.py \
	test_registration.py validation/test_report.py
KIND ?= cuda
BASE ?= bookworm

# A stamp is named after all that an installation depends on: change a pin, or move the folder, and it is made again.
RUN_INPUTS := requirements.txt constraints.txt pyproject.toml
DEV_INPUTS := requirements-dev.txt $(RUN_INPUTS)
digest = $(shell (cat $(1); echo $(CURDIR)) | sha256sum | cut -c 1-16)
RUN_STAMP := $(VENV)/.run-$(call digest,$(RUN_INPUTS))
DEV_STAMP := $(VENV)/.dev-$(call digest,$(DEV_INPUTS))

.DEFAULT_GOAL := help
.PHONY: help demo test quick check audit format install faults soak map map-test fresh clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN_STAMP)  ## a simulated patient through scanner, node and PACS (ARGS="--patient 12")
	@scripts/install-peers || echo "Going on without Orthanc: the demo brings a small archive of its own."
	$(BIN)/psma-node demo $(ARGS)

test: $(DEV_STAMP)  ## every test, with DCMTK, Orthanc and Postgres as peers (ARGS="-k suv")
	@scripts/install-peers --for-tests
	@scripts/install-viewer-peer
	@scripts/install-old-podman-compose
	@scripts/install-promtool
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) --timeout 900 --ignore tests/map $(ARGS)

quick: $(DEV_STAMP)  ## the tests of pure code, in a minute and a half (ARGS="-k suv")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) --timeout 300 $(NOT_QUICK:%=--ignore-glob '*%') $(QUICK) $(ARGS)

faults: $(DEV_STAMP)  ## 1250 kills and other faults, and the account in docs/faults.md (about an hour; goes on where it stopped)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(ARGS)

soak: $(DEV_STAMP)  ## 500 studies from 8 senders with random faults, and the account in docs/soak.md (about 35 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak $(ARGS)

map:  ## the container image (MONAI Application Package) of the last commit (KIND=cuda or KIND=cpu)
	@MAP/build $(KIND)

map-test: $(DEV_STAMP)  ## build the CPU image with Podman, and test it as a container
	@scripts/install-peers --for-tests
	@scripts/install-podman
	$(BIN)/python -m pytest --timeout 1800 tests/map $(ARGS)

fresh:  ## demo and test on a bare Debian made for it (BASE=trixie COMMANDS=test ARGS="-k suv")
	@scripts/fresh '$(BASE)' $(COMMANDS)

check: $(DEV_STAMP)  ## ruff and mypy --strict
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check app operators
	$(BIN)/python -m mypy

audit: $(DEV_STAMP)  ## bandit, and pip-audit where PyPI can be asked (exit code 4: where not)
	@$(BIN)/python scripts/audit

format: $(DEV_STAMP)  ## sort imports, set the layout, mend what ruff can mend
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format app operators

install: $(RUN_STAMP)  ## only the program: .venv/bin/psma-node

$(RUN_STAMP):
	@PYTHON=$(PYTHON) scripts/install-venv $(VENV) requirements.txt
	@touch $@

$(DEV_STAMP):
	@PYTHON=$(PYTHON) scripts/install-venv $(VENV) requirements-dev.txt
	@touch $@ $(RUN_STAMP)

clean:  ## remove the virtual environment and what demo and tests left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output
