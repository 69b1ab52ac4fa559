# One command each for what there is to do; `make` alone lists them. Every target sets up .venv by itself, from
# requirements.lock, and says so. All of them can be repeated, and interrupted: the next make repairs what is half done.

REPORT ?= homework
PUBLISHED := karki wood lyu lybbert dewangan
DEVICE ?= auto
MEMORY ?=
KEEP_GOING ?=
TITLE ?=
AUTHOR ?=
PYTHON ?= python3
KEEP := $(if $(filter-out 0 no,$(KEEP_GOING)),--keep-going)

BIN := .venv/bin
READY := .venv/.ready
UNFINISHED := .venv/.unfinished
PINNED := torch==2.14.1 torchvision==0.29.1

# A kernel named python3 in the home folder must not come before .venv's own.
export JUPYTER_PREFER_ENV_PATH := 1

# A .venv that was moved or copied, or whose Python is gone, does not work any more: treat it as never finished.
ifneq ($(wildcard $(READY)),)
ifneq ($(shell test "$$(cat $(READY))" = "$(CURDIR)" && $(BIN)/python -c '' 2>/dev/null && echo works),works)
$(shell mv $(READY) $(UNFINISHED))
endif
endif

.DEFAULT_GOAL := help
.PHONY: help report reports smoke new lab data test test-slow bench lint lock clean

help:  ## list what there is to do
	@echo "make TARGET [REPORT=a folder of params/] [DEVICE=auto|cpu|cuda|mps] [MEMORY=8GB] [KEEP_GOING=1] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

report: $(READY)  ## train, execute the notebooks and write report/REPORT.html, .pdf and .json (REPORT=homework)
	@$(BIN)/fmnist report "$(REPORT)" --device "$(DEVICE)" $(if $(MEMORY),--memory "$(MEMORY)") $(KEEP)

reports: $(READY)  ## the same for the five published reports and homework (about two hours on two cores)
	@$(BIN)/fmnist report $(PUBLISHED) homework --device "$(DEVICE)" $(if $(MEMORY),--memory "$(MEMORY)") $(KEEP)

smoke: $(READY)  ## the same for params/smoke: the whole way in a few minutes, with tiny runs
	@$(BIN)/fmnist report smoke --device "$(DEVICE)" $(KEEP)

new: $(READY)  ## make params/REPORT, a report of your own to edit (REPORT=mine TITLE=… AUTHOR=…; asks for what is left out)
	@$(BIN)/fmnist new "$(REPORT)" $(if $(TITLE),--title "$(TITLE)") $(if $(AUTHOR),--author "$(AUTHOR)")

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/welcome.ipynb \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
		--LabApp.extension_manager=readonly \
		$(if $(filter 0,$(shell id -u)),--allow-root)

data: $(READY)  ## find or fetch the data set, check it, and say where it is
	@$(BIN)/fmnist data

test: $(READY)  ## run the tests
	@$(BIN)/python -m pytest

test-slow: $(READY)  ## run the slow tests: each notebook alone with its defaults (about nine minutes)
	@$(BIN)/python -m pytest -m slow

bench: $(READY)  ## time training against five other ways to do it, and against the machine's limit (half an hour, nothing else running)
	@$(BIN)/python benchmarks/bench.py --device "$(DEVICE)"

lint: $(READY)  ## check the code's style; changes nothing
	@$(BIN)/ruff check && $(BIN)/ruff format --check

lock: $(BIN)/python  ## bring requirements.lock up to pyproject.toml (UPGRADE=1: newest versions of everything)
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	@printf '%s\n' $(PINNED) | $(BIN)/uv pip compile pyproject.toml --extra dev --extra bench --output-file requirements.lock \
		--universal --python-version 3.11 --fork-strategy fewest --constraints - $(if $(UPGRADE),--upgrade) \
		--quiet --no-emit-index-url --custom-compile-command "make lock"
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages pinned; the next make installs them"

clean:  ## remove caches and rendering's intermediates; keeps .venv, data, runs and the rendered reports
	@rm -rf report/build build .pytest_cache .ruff_cache
	@find src tests notebooks benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-exec rm -rf {} + 2>/dev/null || true

# .unfinished marks a set-up under way and becomes .ready as its last step. Found at the start, the last one was cut off.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "make: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv (a few minutes) …"
	@if [ -e $(UNFINISHED) ]; then rm -rf .venv; fi
	@mkdir -p .venv && touch $(UNFINISHED)
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock || \
		{ echo "make: the set-up stopped; the same command takes it up again and keeps what is downloaded" >&2; exit 1; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $(UNFINISHED) && mv $(UNFINISHED) $(READY)

$(BIN)/python:
	@$(PYTHON) -m venv .venv
