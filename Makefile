# Needs Python 3.11 and make, nothing else.
PYTHON ?= python3.11
BIN := .venv/bin
ENVIRONMENTS := infra/environments

.PHONY: demo setup test test-control test-cloud test-jobs check benchmark lock clean

demo: setup
	@$(BIN)/nightshift run nightly-ppo --preset demo

setup: .venv/control
	@$(BIN)/nightshift setup

# One coverage of all: the control plane's tests (which wait for processes of their own most of the
# time, so two run side by side, the longest first), those on Slurm clusters of their own (one for
# each of two workers; root and Debian's packages; SkyPilot wants its HOME before it is imported),
# and those of the jobs.
test: .venv/dev
	@rm -f .coverage .coverage.*
	@$(MAKE) --no-print-directory test-control
	@$(MAKE) --no-print-directory test-cloud
	@$(MAKE) --no-print-directory test-jobs
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --fail-under=85

test-control: .venv/dev
	@COVERAGE_FILE=$(CURDIR)/.coverage.control $(BIN)/python -m pytest --cov --cov-report= --durations 15 \
	  --numprocesses 2 --dist loadscope --no-loadscope-reorder \
	  tests/chaos tests/end_to_end tests/integration tests/unit

test-cloud: .venv/dev
	@COVERAGE_FILE=$(CURDIR)/.coverage.cloud $(BIN)/python -m pytest --cov --cov-report= --durations 15 --timeout 900 \
	  --numprocesses 2 --dist load tests/cloud

test-jobs: .venv/dev
	@for jobs in train surrogate; do \
	  python=$$($(BIN)/python -m infra.compute.environments $$jobs-test) && \
	  COVERAGE_FILE=$(CURDIR)/.coverage.$$jobs OMP_NUM_THREADS=1 PYTHONPATH=. \
	  $$python -m pytest --confcutdir=tests/$$jobs --cov --cov-report= tests/$$jobs || exit 1; \
	done

benchmark: .venv/dev
	@$(BIN)/python -m benchmarks.ledger
	@$(BIN)/python -m benchmarks.objects

check: .venv/dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/unit/test_documents.py

.venv/control: $(ENVIRONMENTS)/control.txt pyproject.toml
	@$(PYTHON) -m venv .venv
	@$(PYTHON) infra/compute/uv.py .venv/bin/python $(ENVIRONMENTS)/control.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/control $(ENVIRONMENTS)/dev.txt
	@$(PYTHON) infra/compute/uv.py .venv/bin/python $(ENVIRONMENTS)/dev.txt
	@touch $@

# torch is pinned without its local version, so that a CUDA machine gets its own build; it is looked
# up anew each time, since the pin would choose that build here.
lock: .venv/control
	@cd $(ENVIRONMENTS) && for name in control dev node train train-test surrogate surrogate-test; do \
	  constraint=$$(case $$name in dev) echo "-c control.txt";; train-test) echo "-c train.txt";; \
	    surrogate-test) echo "-c surrogate.txt";; esac); \
	  ../../$(BIN)/uv pip compile -q --python-version 3.11 --no-emit-index-url --no-emit-find-links --upgrade-package torch \
	    --custom-compile-command "make lock  (uv pip compile)" \
	    $$($(PYTHON) ../compute/uv.py) $$constraint $$name.in -o $$name.txt && \
	  sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' $$name.txt; \
	done

clean:
	@rm -rf .venv .nightshift
