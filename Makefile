# make quickstart   train, evaluate and sample a small model on this machine: about ten minutes on two cores
# make ablation-demo   two variants with three seeds, and the report of their difference: less than ten minutes
# make test         the test suite without its sweeps: about thirteen minutes on two cores, fifteen the first time
# make test-all     the whole test suite: long matrices too, of which `make test` runs representatives
# make check        lint, format and types, as .ci/run does; of configs those that git knows, so none of your own
# make parity       every published family against transformers, live: installs torch, about ten minutes
# make parity-alignment   losses of post-training against trl, live: installs torch
# make parity-inspection  head roles, patches and shares of a logit against transformer_lens, autoencoders against sae_lens,
#                   each in an environment of its own, live: installs torch twice

ACCELERATOR ?= cpu
VENV ?= .venv
RUN := $(VENV)/bin/python
PYTHON ?= $(if $(wildcard $(RUN)),$(RUN),python3)

comma := ,
EXTRAS := test$(if $(filter-out cpu,$(ACCELERATOR)),$(comma)$(ACCELERATOR))
PRINT_VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
VERSION := $(shell $(PYTHON) $(PRINT_VERSION))
STAMP := $(VENV)/.installed-$(ACCELERATOR)-$(VERSION)

# Without git all configs are ours. What git lists may have been deleted.
CONFIGS := $(wildcard $(or $(shell git ls-files 'configs/*.py' 2>/dev/null),configs))
CHECKED := model train launch tests $(CONFIGS)

.PHONY: quickstart ablation-demo test test-all check parity parity-alignment parity-inspection install clean

quickstart: $(STAMP)
	$(RUN) -m launch.quickstart

ablation-demo: $(STAMP)
	$(RUN) -m launch.sweep --config=configs/ablations/demo.py --run=runs/demo

test: TIER := -m "not sweep"
test test-all: $(STAMP)
	$(RUN) -m pytest --numprocesses=2 --dist=worksteal $(TIER)

check: $(STAMP)
	$(RUN) -m ruff check $(CHECKED)
	$(RUN) -m ruff format --check $(CHECKED)
	$(RUN) -m mypy $(filter-out tests,$(CHECKED))

parity: $(STAMP)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[parity]"
	$(RUN) -m tests.parity.live $(FAMILY)

parity-alignment: $(STAMP)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[parity-alignment]"
	$(RUN) -m tests.parity.alignment.trl_preference

parity-inspection: $(STAMP)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[parity-inspection]"
	$(RUN) -m tests.parity.inspection.compare
	$(RUN) -m venv $(VENV)-sae-lens
	$(VENV)-sae-lens/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[parity-autoencoders]"
	$(RUN) -m tests.parity.inspection.sae_lens --python=$(VENV)-sae-lens/bin/python

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@case "$(ACCELERATOR)" in cpu|cuda12|cuda13|tpu) ;; *) \
	  echo "ACCELERATOR=$(ACCELERATOR): expected cpu, cuda12, cuda13 or tpu" >&2; exit 2;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $(or $(VERSION),not there); use make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@case "$$($(RUN) $(PRINT_VERSION))" in \
	  "$(VERSION)") ;; *) echo "making $(VENV) with Python $(VERSION)"; $(PYTHON) -m venv --clear $(VENV);; esac
	@echo "installing the packages pinned in constraints.txt: some minutes the first time"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf $(VENV)
