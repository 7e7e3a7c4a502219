# Two commands: `make up` runs the main job, `make test` runs the tests. Both install what they need.

PYTHON  ?= python3
PROJECT ?= examples/clients
UV_VERSION := 0.13.9

export UV_PYTHON_DOWNLOADS := never
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := .venv/bin/
GRISTMILL := $(RUN)gristmill --project $(PROJECT)

.DEFAULT_GOAL := help
.PHONY: help install up down test test-airflow test-deploy soak lint install-deploy check-deploy env format bench lock clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it as in: make up PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: uv.lock pyproject.toml | $(if $(findstring .uv,$(UV)),.uv/bin/uv)
	$(UV) sync --locked --all-extras --quiet --compile-bytecode
	@touch $@

install: .venv/.installed ## what everything else needs, from the lock file

up: install $(if $(findstring examples/clients,$(PROJECT)),examples/clients/.env) ## the main job on this machine: database, load, build, train, serve
	@$(GRISTMILL) up

down: install ## stop what `make up` started
	@$(GRISTMILL) down

# The example's own bucket is on Amazon; without one of your own a sample takes its place.
examples/clients/.env: | .venv/.installed
	@test -d examples/clients/bucket || $(RUN)gristmill sample examples/clients/bucket
	@echo 'GRISTMILL_SOURCE=bucket' > $@

test: install ## every test, but for Airflow's and the rehearsals of a deployment
	tests/programs
	$(RUN)pytest -n 3 --dist loadgroup --ignore tests/deploy --ignore-glob 'tests/acceptance/test_airflow*'

test-airflow: install ## a real Airflow: from a cold start to answers, backfills, kills, Celery, Edge
	tests/programs
	$(RUN)pytest tests/acceptance/test_airflow*.py

test-deploy: .venv/.deploy ## rehearse every way of deploying: images and Compose, a host, the cloud; as root
	deploy/checks/can-rehearse
	tests/programs deploy
	$(RUN)pytest -n 2 --dist loadgroup tests/deploy

soak: install ## the proofs at length: 7,500 kills, 10,000 swaps under readers, ten minutes of load; two hours or more
	$(RUN)pytest -n 2 -rP --kills 5000 tests/acceptance/test_kill.py tests/acceptance/test_no_loss.py
	$(RUN)python -m benchmarks.soak
	$(RUN)pytest -rP --swaps 2500 tests/integration/test_readers.py

lint: install ## style, types, and who may import whom
	$(RUN)ruff check
	$(RUN)ruff format --check
	$(RUN)mypy
	$(RUN)lint-imports

# The programs that lint, audit and rehearse a deployment, beside everything else.
.venv/.deploy: .venv/.installed
	$(UV) sync --locked --all-extras --group deploy --inexact --quiet
	@touch $@

install-deploy: .venv/.deploy

check-deploy: .venv/.deploy ## lint what deploys, audit what is shipped, try the infrastructure, write the bill of materials
	deploy/checks/lint
	$(RUN)pytest -q tests/deploy/test_terraform.py
	deploy/checks/audit
	deploy/checks/sbom dist/gristmill.cdx.json

env: ## secrets and settings of docker-compose.yml, in .env; SOURCE=s3://… or SOURCE=sample names the bucket
	@deploy/make-env $(SOURCE)

format: install ## mend what can be mended
	$(RUN)ruff check --fix
	$(RUN)ruff format

bench: install ## benchmarks, side by side with what people use instead
	$(RUN)python -m benchmarks

lock: $(if $(findstring .uv,$(UV)),.uv/bin/uv) ## the list that Airflow is installed from, brought up to date
	cd src/gristmill/orchestration && $(abspath $(UV)) pip compile --quiet --universal --upgrade --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command 'make lock' airflow.in --output-file airflow.txt

clean: ## everything that was made, except .gristmill/ folders
	rm -rf .venv .uv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
