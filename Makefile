SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SUPPORTED := import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("$(PYTHON) is Python " + sys.version.split()[0] + "; 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.13 ...")

.PHONY: help install demo up down explore pipeline pipeline-kfp test test-resume chaos fuzz bench bench-scale bench-index bench-peers bench-pipeline quality lint types imports fmt proto verify-proto verify-deploy docs dashboards images images-test lock

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Everything into .venv

$(INSTALLED): requirements/all.txt pyproject.toml
	@$(PYTHON) -c '$(SUPPORTED)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement requirements/all.txt
	@# On all cores, which pip does on one. Some packages carry files for other Pythons: those fail, as with pip.
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . && touch $@

demo: $(INSTALLED) ## Learn a release from real data, start everything, ask, print, stop
	@$(BIN)/python -m local_stack demo

up: $(INSTALLED) ## The same stack, left running on the fixed local ports
	@$(BIN)/python -m local_stack up

down: $(INSTALLED) ## Stop what `make up` started
	@$(BIN)/python -m local_stack down

# `up` writes down where its parts are; what the environment says comes first.
explore: $(INSTALLED) ## A web page of what users are answered, and how fast (http://127.0.0.1:8080)
	@set -a; [ ! -f build/up/explorer.env ] || . build/up/explorer.env; exec $(BIN)/python -m explorer

# Epochs end the training and not seconds: both forms learn the same.
DEMO_RUN := --demo-data build/cache --split last-view --max-epochs 10 --max-train-seconds 600

pipeline: $(INSTALLED) ## The workflow on the demo's data, into build/store
	@$(BIN)/python -m pipeline run $(DEMO_RUN) --store build/store

pipeline-kfp: $(INSTALLED) ## The same by the pipeline for Kubeflow, into build/store-kfp
	@$(BIN)/python -m pipeline run $(DEMO_RUN) --store build/store-kfp --workdir build/pipeline-kfp --kfp-local

# What measures time or counts on having the machine runs alone, all else two at once. The longest
# file comes first, or it would end last and alone.
SIDE_BY_SIDE := $(addprefix tests/,loadtest/test_bench.py resume e2e pipeline fuzz explorer deploy releases faiss_server tf_serving recommender protos reporting)

test: lint types imports verify-proto ## Every test, linters, types, import rules, proto check
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(SIDE_BY_SIDE)
	@$(BIN)/python -m pytest $(addprefix --ignore=,$(SIDE_BY_SIDE))

test-resume: $(INSTALLED) ## Kill the workflow in each step, repeat it, compare the release (QUICK=1: a minute)
	@$(BIN)/python -m tests.resume

images-test: $(INSTALLED) ## Build the images, bring the stack up by TLS, break it under load (needs root or Docker)
	@$(BIN)/python -m tests.images

# Programs that pip does not have: Debian's package prometheus, and Docker Compose.
PROMTOOL ?= promtool
COMPOSE ?= docker compose

verify-deploy: $(INSTALLED) ## Alerts, dashboards, files of images, compose and ECS (needs promtool and Docker Compose)
	@command -v $(PROMTOOL) >/dev/null || { echo "no $(PROMTOOL): Debian's package prometheus has it" >&2; exit 1; }
	$(BIN)/hadolint deploy/images/Dockerfile tf_serving/Dockerfile
	$(BIN)/cfn-lint deploy/ecs/*.yml
	$(COMPOSE) --file docker-compose.yml --file deploy/compose/tracing.yml config --quiet
	CERTS=. $(COMPOSE) $(addprefix --file ,docker-compose.yml deploy/compose/stand-in.yml deploy/compose/tls.yml) config --quiet
	$(BIN)/python -m pytest tests/deploy

chaos: $(INSTALLED) ## Break everything under load, and judge the answers (QUICK=1: a minute)
	@$(BIN)/python -m tests.chaos

fuzz: $(INSTALLED) ## 100,000 malformed and extreme requests to each RPC (QUICK=1: half a minute)
	@$(BIN)/python -m tests.fuzz

bench: $(INSTALLED) ## The stack against its plain chain, at a million articles (QUICK=1: a minute)
	@$(BIN)/python -m loadtest.bench

bench-scale: $(INSTALLED) ## Latency at 100,000, 1 and 4 million articles (QUICK=1: a minute)
	@$(BIN)/python -m loadtest.bench.scale

bench-index: $(INSTALLED) ## Searches in process with exclusions and filters, 10 million compressed (QUICK=1: a minute)
	@$(BIN)/python -m loadtest.bench.index

bench-peers: $(INSTALLED) ## The faiss server beside pgvector, Chroma, Milvus and bare libraries (QUICK=1: without them)
	@$(BIN)/python -m loadtest.peers

bench-pipeline: $(INSTALLED) ## Time and memory of each step of the workflow (SCALE=10M, QUICK=1)
	@$(BIN)/python -m pipeline.bench

# The data sets but ml-100k may not be passed on: DATA_DIR has a folder for each.
export DATA DATA_DIR SEED OPTIONS
quality: $(INSTALLED) ## What the shipped model finds, beside published results (needs DATA=ml-100k or another of docs/quality.md; SEED=n, QUICK=1)
	@$(BIN)/python -m pipeline.quality

# With another client: make images DOCKER=podman
DOCKER ?= docker

images: ## Our container images, recsys-*
	@for image in recommender faiss-server model-server pipeline; do \
	    DOCKER_BUILDKIT=1 $(DOCKER) build $(BUILD_OPTIONS) --file deploy/images/Dockerfile --target $$image \
	        --build-arg REVISION=$$(git rev-parse HEAD) --tag recsys-$$image . || exit 1; \
	done

lint: $(INSTALLED) ## ruff, codespell, buf, hadolint, cfn-lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/codespell && $(BIN)/buf lint
	$(BIN)/hadolint deploy/images/Dockerfile tf_serving/Dockerfile
	$(BIN)/cfn-lint deploy/ecs/*.yml
	$(BIN)/python tools/document_settings.py --check
	$(BIN)/python -m tools.dashboards --check

types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy .

imports: $(INSTALLED) ## Which package may import which: import-linter's rules in pyproject.toml
	$(BIN)/lint-imports

fmt: $(INSTALLED) ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

proto: $(INSTALLED) ## Regenerate protos/gen
	$(BIN)/python tools/generate_protos.py protos/gen

verify-proto: $(INSTALLED) ## Fail when protos/gen is not what the protos generate
	$(BIN)/python tools/generate_protos.py --check protos/gen

docs: $(INSTALLED) ## Rewrite docs/settings.md from the settings classes
	$(BIN)/python tools/document_settings.py

dashboards: $(INSTALLED) ## Rewrite deploy/grafana/dashboards from tools/dashboards and the runbook
	$(BIN)/python -m tools.dashboards

IMAGES := recommender:recommender,tracing faiss-server:faiss-server,aws,tracing model-server:tf-serving,tracing pipeline:pipeline,aws,gcp,kubeflow
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --override requirements/overrides.txt --no-header --no-annotate --no-emit-package recsys-serving

lock: $(INSTALLED) ## Compile requirements/all.txt and those of the images anew (needs uv on the PATH)
	$(COMPILE) --extra dev --constraint requirements/constraints.txt -o requirements/all.txt
	for image in $(IMAGES); do \
	    $(COMPILE) --extra $$(echo $${image#*:} | sed "s/,/ --extra /g") --constraint requirements/all.txt -o requirements/images/$${image%%:*}.txt || exit 1; \
	done
