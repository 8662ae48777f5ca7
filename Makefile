# The two main commands: `make demo` shows the whole stack on this machine, `make test` runs every test.
SHELL := /bin/sh
BIN := .venv/bin
# Compiled Python files are cached outside of the sources, as those are copied into containers.
export PYTHONPYCACHEPREFIX = $(CURDIR)/.venv/pycache
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-unit lint bench bench-deploy reference dashboards pictures lock clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 	/'

demo: .venv/ready  ## Lab, three containers, deploy, one run of the pipeline, a query of its weather
	@$(BIN)/homelab demo

test: .venv/ready .venv/test-ready lint test-unit  ## Run every test, including the end-to-end test in the lab
	$(BIN)/pytest -q --numprocesses auto -m slow tests/unit
	$(BIN)/pytest -q --numprocesses auto --dist worksteal tests/contract
	$(BIN)/mypy --python-executable .venv-analytics/bin/python pipelines/shared/scripts pipelines/weather/scripts \
	    pipelines/weather/snowflake
	$(BIN)/pytest --numprocesses auto --dist loadfile tests/integration tests/e2e

test-unit: .venv/ready  ## Run the fast tests on all cores: no network, no containers
	$(BIN)/pytest -q --numprocesses auto --dist worksteal -m "not slow" tests/unit

lint: .venv/ready  ## Run ruff check, ruff format --check and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/ready  ## Compare homelab with Ansible and with the bare calls; about two minutes
	$(BIN)/python -m benchmarks

bench-deploy: .venv/ready  ## Compare `homelab deploy` with Ansible, pyinfra and a script; 15 minutes, as root
	$(BIN)/python -m benchmarks.deploy

COMPILE := $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links

reference: .venv/ready  ## Generate docs/reference and inventory.schema.json from the code
	$(BIN)/python -m docs.generate_reference
	$(BIN)/homelab schema > inventory.schema.json

dashboards: .venv/ready  ## Generate templates/grafana/dashboards with Grafana's SDK
	$(BIN)/python -m dashboards

pictures: .venv/ready  ## Take the pictures of docs/images from the running demo, with Chromium, as root
	$(BIN)/python -m docs.take_pictures

lock: .venv/ready  ## Update requirements/*.txt and pipelines/shared/requirements/*.txt
	$(COMPILE) --group test --extra lab pyproject.toml -o requirements/dev.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/sqlfluff.in -o requirements/sqlfluff.txt
	$(COMPILE) requirements/chdb.in -o requirements/chdb.txt
	$(COMPILE) requirements/fakesnow.in -o requirements/fakesnow.txt
	$(COMPILE) pipelines/weather/snowflake/requirements.in -o pipelines/weather/snowflake/requirements.txt
	$(COMPILE) benchmarks/requirements.in -o benchmarks/requirements.txt
	pipelines/shared/requirements/refresh

clean:  ## Remove the installed environments and caches (the lab: `homelab lab down --purge`)
	rm -rf .venv .venv-analytics .venv-clickhouse .venv-chdb .venv-fakesnow benchmarks/.venv .mypy_cache .ruff_cache .pytest_cache

.venv/ready: bootstrap requirements/dev.txt requirements/build.txt pipelines/shared/requirements/uv.txt pyproject.toml
	@./bootstrap
	@touch $@

.venv/test-ready: .venv/ready bootstrap requirements/postgres.txt pipelines/shared/requirements/analytics.txt \
    pipelines/shared/requirements/seaweedfs.txt pipelines/shared/requirements/clickhouse.txt requirements/chdb.txt \
    requirements/fakesnow.txt
	@./bootstrap --test
	@touch $@
