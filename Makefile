# One command each for what there is to do; `make` alone lists them. Every target sets up .venv by itself with what it
# needs, at the versions of requirements.lock. All can be repeated, and interrupted: the next make repairs what is half
# done.

REPORT ?= homework
PUBLISHED := karki wood lyu lybbert dewangan
DEVICE ?= auto
MEMORY ?=
CLUSTER ?=
KEEP_GOING ?=
TITLE ?=
AUTHOR ?=
PYTHON ?= python3
KEEP := $(if $(filter-out 0 no,$(KEEP_GOING)),--keep-going)
WHERE = --device "$(DEVICE)" $(if $(MEMORY),--memory "$(MEMORY)") $(if $(CLUSTER),--cluster "$(CLUSTER)")

BIN := .venv/bin
READY := .venv/.ready
TESTING := .venv/.ready-dev
TIMING := .venv/.ready-bench
CLUSTERED := .venv/.ready-cluster
TRAINING = $(if $(CLUSTER),$(CLUSTERED),$(READY))
UNFINISHED := .venv/.unfinished
PINNED := torch==2.14.1 torchvision==0.29.1
UV := $(if $(shell uv --version 2>/dev/null),uv,$(BIN)/uv)

# A kernel named python3 in the home folder must not come before .venv's own.
export JUPYTER_PREFER_ENV_PATH := 1

# A .venv that was moved or copied, whose Python is gone, or whose last set-up was cut off: nothing in it is ready.
ifneq ($(wildcard .venv/.ready*),)
ifneq ($(shell test ! -e $(UNFINISHED) && test "$$(cat $(READY))" = "$(CURDIR)" && $(BIN)/python -c '' && echo works),works)
$(shell touch $(UNFINISHED) && rm -f .venv/.ready*)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help report reports smoke new lab data test test-slow test-faults bench lint lock clean

help:  ## list what there is to do
	@echo "make TARGET [REPORT=a folder of params/] [DEVICE=auto|cpu|cuda|mps] [MEMORY=8GB] [KEEP_GOING=1] [CLUSTER=tcp://…|jobs.yaml] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

report: $(TRAINING)  ## train, execute the notebooks and write report/REPORT.html, .pdf and .json (REPORT=homework)
	@$(BIN)/fmnist report "$(REPORT)" $(WHERE) $(KEEP)

reports: $(TRAINING)  ## the same for the five published reports and homework (two and a half hours on two cores)
	@$(BIN)/fmnist report $(PUBLISHED) homework $(WHERE) $(KEEP)

smoke: $(TRAINING)  ## the same for params/smoke: the whole way in a few minutes, with tiny runs
	@$(BIN)/fmnist report smoke $(WHERE) $(KEEP)

new: $(READY)  ## make params/REPORT, a report of your own to edit (REPORT=mine TITLE=… AUTHOR=…; asks for what is left out)
	@$(BIN)/fmnist new "$(REPORT)" $(if $(TITLE),--title "$(TITLE)") $(if $(AUTHOR),--author "$(AUTHOR)")

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --config=jupyter_server_config.py $(if $(filter 0,$(shell id -u)),--allow-root)

data: $(READY)  ## find or fetch the data set, check it, and say where it is
	@$(BIN)/fmnist data

test: $(TESTING)  ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-slow: $(TESTING)  ## run the slow tests: each notebook alone with its defaults (about nine minutes)
	@$(BIN)/python -m pytest -m slow

test-faults: $(TESTING)  ## try every fault as often as README says, and print the counts (half an hour on two cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow" -k "test_faults or test_cluster or workers_start"

bench: $(TIMING)  ## time training against five other ways to do it, and against the machine's limit (half an hour, nothing else running)
	@$(BIN)/python benchmarks/bench.py --device "$(DEVICE)"

lint: $(TESTING)  ## check the code's style; changes nothing
	@$(BIN)/ruff check && $(BIN)/ruff format --check

lock: $(READY)  ## bring requirements.lock up to pyproject.toml (UPGRADE=1: newest versions of everything)
	@printf '%s\n' $(PINNED) | $(UV) pip compile pyproject.toml --extra dev --extra bench --output-file requirements.lock \
		--universal --python-version 3.11 --fork-strategy fewest --constraints - $(if $(UPGRADE),--upgrade) \
		--quiet --no-emit-index-url --custom-compile-command "make lock"
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages pinned; the next make installs them"

clean:  ## remove caches and rendering's intermediates; keeps .venv, data, runs and the rendered reports
	@rm -rf report/build build .pytest_cache .ruff_cache
	@find src tests notebooks benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-exec rm -rf {} + 2>/dev/null || true

# $(call install,extras): the package and what it needs, by uv, which comes by pip where there is none; where uv finds no
# packages, because only pip is told of a mirror, by pip. The lock lists versions; what is installed, pyproject.toml says.
define install
	@test -x $(BIN)/uv || test $(UV) = uv || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
	@$(UV) pip install --compile-bytecode --python $(BIN)/python --constraint requirements.lock \
		--build-constraint requirements.lock \
		--editable ".$(1)" || \
		$(BIN)/python -m pip install --disable-pip-version-check --constraint requirements.lock --editable ".$(1)" || \
		{ echo "make: the set-up stopped; the same command begins it anew and keeps what is downloaded" >&2; exit 1; }
endef

# .unfinished marks a set-up under way. Found at the start, the last one was cut off.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "make: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv (a minute or two) …"
	@if [ -e $(UNFINISHED) ]; then rm -rf .venv; fi
	@mkdir -p .venv && touch $(UNFINISHED)
	@$(PYTHON) -m venv .venv
	$(call install,)
	@echo "$(CURDIR)" > $(READY) && rm $(UNFINISHED)

$(TESTING): $(READY)
	@echo "Adding what tests need …"
	@touch $(UNFINISHED)
	$(call install,[dev])
	@touch $@ && rm $(UNFINISHED)

$(CLUSTERED): $(READY)
	@echo "Adding Dask, for more than one machine …"
	@touch $(UNFINISHED)
	$(call install,[cluster])
	@touch $@ && rm $(UNFINISHED)

$(TIMING): $(READY)
	@echo "Adding what the timings are compared with …"
	@touch $(UNFINISHED)
	$(call install,[bench])
	@touch $@ && rm $(UNFINISHED)
