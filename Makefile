# make demo         data, training, export, server and answers on this machine
# make test         everything that needs no GPU
# make lint         style and types
# make lock         newest versions of everything into requirements/, which both environments are held to
# make bench-serve  latency, throughput and overload of the server over deploy/ (after make demo)
# make soak         100,000 mutated images, 100,000 odd titles; 100,000 requests, 5 % of them bad, memory, file handles and shared memory watched
# make soak-train   training on two ranks, killed with -9 at 40 random moments, `cma-clip fit` stopped at each step; equal to one that was not
# make clean        removes what demo and test made, and both environments; your own data and runs stay
PYTHON ?= python3.11
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
ifndef HAS_GPU
export DS_ACCELERATOR := cpu
endif
# Workers of `make test`, each with its part of the cores; 0: in one process. Tests marked `alone` have the machine to themselves.
WORKERS ?= 2
TRAIN_EXTRAS := train,console,dev
SERVE_EXTRAS := local-server
DATA := data/apa_mini
RUN := runs/apa_mini
# Sized for 8 minutes on two cores; `train.prepare apa_mini` by itself makes 10,000 products to train on.
SIZE := 4000
EPOCHS := --stages.warmup.epochs=1 --stages.end_to_end.epochs=3 --stages.tuning.epochs=1
LOCAL_PORTS := --grpc-port=8001 --http-port=8000 --metrics-port=8002
SERVER := .venv-serve/bin/tritonserver --model-repository deploy/ --model-config-name=cpu $(LOCAL_PORTS)
SERVER_LOG := $(RUN)/server.log

# $(call with_server,COMMAND) runs it while a server over deploy/ runs; $$server is its process.
define with_server
@set -e; mkdir -p $(dir $(SERVER_LOG)); \
$(SERVER) > $(SERVER_LOG) 2>&1 & \
server=$$!; trap 'kill $$server 2> /dev/null; wait $$server || true' EXIT; \
sleep 3; kill -0 $$server 2> /dev/null && $(1) \
  || { echo "the server said (all of it: $(SERVER_LOG)):"; tail -n 5 $(SERVER_LOG); exit 1; }
endef

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
SHELL := /bin/bash

.NOTPARALLEL:
.PHONY: demo test lint lock clean data train serve bench-serve soak soak-train
.DELETE_ON_ERROR:

demo: .venv/.ready .venv-serve/.ready
	@time $(MAKE) --no-print-directory data train serve

data: .venv/.ready
	python -m train.prepare apa_mini --size $(SIZE) --output $(DATA)

train: .venv/.ready
	cma-clip fit $(DATA) --output $(RUN) $(EPOCHS)

serve: .venv/.ready .venv-serve/.ready
	$(call with_server,python -m client.report --data $(DATA) --output $(RUN)/report.png --wait 60)

bench-serve: deploy/bundle.json .venv/.ready .venv-serve/.ready
	$(call with_server,python -m bench.load sweep --data $(DATA) --wait 60 && python -m bench.load overload --data $(DATA))

soak: deploy/bundle.json .venv/.ready .venv-serve/.ready
	python -m bench.image_fuzz --mutations 100000
	python -m bench.title_fuzz --titles 100000
	$(call with_server,python -m bench.load soak --data $(DATA) --wait 60 --pid $$server)

soak-train: .venv/.ready
	python -m pytest -m soak tests/train/test_killed.py tests/train/fit/test_fit.py --capture no

deploy/bundle.json:
	@echo "deploy/ has no engine: make demo, or python -m serve.export BUNDLE --deploy deploy" >&2; exit 1

test: .venv/.ready .venv-serve/.ready .venv/.browser
	python -m pytest --numprocesses $(WORKERS)

lint: .venv/.ready
	ruff check .
	ruff format --check .
	mypy

# $(call lock,FILE,EXTRAS) asks pip what it would install into an empty environment, and writes that down.
define lock
$(PYTHON) -m venv --clear build/lock
build/lock/bin/pip install --quiet --dry-run --ignore-installed --report build/lock/report.json '.[$(2)]'
$(PYTHON) -c 'import json; \
  found = {one["metadata"]["name"]: one["metadata"]["version"] for one in json.load(open("build/lock/report.json"))["install"]}; \
  print(*sorted(f"{name}=={found[name]}" for name in found.keys() - {"cma-clip", "setuptools"}), sep="\n")' > requirements/$(1).txt
endef

lock:
	$(call lock,train,$(TRAIN_EXTRAS))
	$(call lock,serve,$(SERVE_EXTRAS))

.venv/.ready: pyproject.toml requirements/train.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint requirements/train.txt --editable '.[$(TRAIN_EXTRAS)]'
	touch $@

.venv-serve/.ready: pyproject.toml requirements/serve.txt serve/local_server.py
	$(PYTHON) -m venv .venv-serve
	.venv-serve/bin/pip install --quiet --constraint requirements/serve.txt --editable '.[$(SERVE_EXTRAS)]'
	.venv-serve/bin/python -m serve.local_server --install
	touch $@

# Chromium, for the console's tests in a browser: Debian's where we may install it; else they are skipped, and say so.
.venv/.browser: .venv/.ready
	@command -v chromium chromium-browser google-chrome > /dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null; } \
	  || echo "no Chromium (apt-get install chromium): the tests of the console in a browser are skipped"
	@command -v chromium chromium-browser google-chrome > /dev/null && touch $@ || true

clean:
	rm -rf .venv .venv-serve $(DATA) $(RUN) runs/bench build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	rm -f deploy/bundle.json deploy/tokenizer.json deploy/model.plan.timing deploy/engine/1/model.*
	find . -name __pycache__ -prune -exec rm -rf {} +
