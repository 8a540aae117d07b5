# Everything runs from one virtual environment; `make` alone lists the targets.
VENV ?= .venv
PORT ?= 8000
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	"$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	2>/dev/null && echo "$$name" && break; done)
# For the tests of the model's own code, on the CPU. Empty leaves them out.
TORCH ?= torch==2.13.0
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check

# What is said may hold a dollar sign, which make would read as a variable of its own.
override TEXT := $(value TEXT)
override VOICE := $(value VOICE)
override FORMAT := $(value FORMAT)
override ENGINE := $(value ENGINE)
override MODEL_PATH := $(value MODEL_PATH)
export TEXT VOICE FORMAT ENGINE MODEL_PATH

.PHONY: help demo setup test soak lint serve bench lock clean

help:
	@echo "make demo    speech from a fresh machine  (TEXT=... VOICE=... FORMAT=... ENGINE=...)"
	@echo "make serve   the local RunPod API on port $(PORT)  (PORT=...)"
	@echo "make test    every test                   make soak   the long ones"
	@echo "make lint    ruff and mypy                make bench  the measurements"
	@echo "make setup   installs what they need      make clean  removes what they made"

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 with venv is needed" \
	"(Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created requirements-demo.txt
	$(PIP) -r requirements-demo.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo requirements-dev.txt
	$(if $(TORCH),$(PIP) $(TORCH))
	$(PIP) -r requirements-dev.txt
	$(if $(TORCH),$(PIP) --no-deps accelerate==1.6.0 vibevoice==0.0.1)
	@touch $@

demo: $(VENV)/$(if $(filter vibevoice,$(ENGINE)),.dev,.demo)
	@$(PY) tools/demo.py

serve: $(VENV)/.demo
	$(PY) handler.py --rp_serve_api --rp_api_host 127.0.0.1 --rp_api_port $(PORT)

setup: $(VENV)/.dev

test: setup
	$(PY) -m pytest -m "not soak"

soak: setup
	$(PY) -m pytest -m soak

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: setup
	$(PY) -m bench

LOCK := uv pip compile pyproject.toml -q --no-annotate --no-header
lock:
	$(LOCK) --universal --python-version 3.11 -o requirements-demo.txt
	$(LOCK) --universal --python-version 3.11 --extra dev -c requirements-demo.txt \
		-o requirements-dev.txt
	$(LOCK) --python-platform x86_64-manylinux_2_28 --python-version 3.12 --extra gpu \
		-c requirements-demo.txt -o requirements.txt

clean:
	rm -rf .venv .venv-3.12 out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
