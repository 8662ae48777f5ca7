# Two commands: `make demo` shows the whole way on this machine, `make test` runs every test.
SHELL := /bin/sh
BIN := .venv/bin
# What Python has compiled is kept, but not beside the sources: those go into containers.
export PYTHONPYCACHEPREFIX = $(CURDIR)/.venv/pycache
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-unit lint bench bench-deploy reference lock clean

help:  ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 	/'

demo: .venv/ready  ## The whole way: lab, three containers, deploy, one run of the pipeline, its weather
	@$(BIN)/homelab demo

test: .venv/ready .venv/test-ready lint test-unit  ## Every test, the end-to-end one on the lab included
	$(BIN)/mypy --python-executable .venv-analytics/bin/python pipeline/scripts
	$(BIN)/pytest -m "not lab" --numprocesses auto --dist loadfile --no-loadscope-reorder tests/integration
	$(BIN)/pytest -m lab tests/integration tests/e2e

test-unit: .venv/ready  ## The fast tests, on all cores: no network, no containers
	$(BIN)/pytest -q --numprocesses auto --dist worksteal tests/unit

lint: .venv/ready  ## ruff check, ruff format --check and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/ready  ## Measure homelab beside Ansible and beside the bare calls; about two minutes
	$(BIN)/python -m benchmarks

bench-deploy: .venv/ready  ## Measure `homelab deploy` in a lab, beside Ansible, pyinfra and a script; 15 minutes, as root
	$(BIN)/python -m benchmarks.deploy

COMPILE := $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links

reference: .venv/ready  ## Generate docs/reference and inventory.schema.json from the code
	$(BIN)/python docs/generate_reference.py
	$(BIN)/homelab schema > inventory.schema.json

lock: .venv/ready  ## Bring requirements/*.txt and pipeline/requirements/*.txt up to date
	$(COMPILE) --group test --extra lab pyproject.toml -o requirements/dev.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) benchmarks/requirements.in -o benchmarks/requirements.txt
	pipeline/requirements/refresh

clean:  ## Remove what was installed here (the lab: `homelab lab down --purge`)
	rm -rf .venv .venv-analytics benchmarks/.venv .mypy_cache .ruff_cache .pytest_cache

.venv/ready: bootstrap requirements/dev.txt requirements/build.txt pipeline/requirements/uv.txt pyproject.toml
	@./bootstrap
	@touch $@

.venv/test-ready: .venv/ready bootstrap requirements/postgres.txt pipeline/requirements/analytics.txt
	@./bootstrap --test
	@touch $@
