# Everything here needs only python3 (3.11 or newer) and make; what is missing is installed into .venv.
# Without make (Windows): python bootstrap.py, then .venv\Scripts\python -m finetune ...

PY := .venv/bin/python
# Windows' Linux puts the machine's name into the environment as NAME.
NAME := $(if $(and $(WSL_DISTRO_NAME),$(filter environment,$(origin NAME))),,$(NAME))
export CSV TEXT DATA WEIGHTS METHOD NAME
SETTINGS = $${WEIGHTS:+--set "weights=$$WEIGHTS"} $${METHOD:+--set "train.method=$$METHOD"} \
	$${CSV:+--set "data=$$CSV"} $${NAME:+--name "$$NAME"} $(ARGS)

# Two workers of one thread each: most tests are too small to keep two threads busy.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest $$($(PY) -c 'import xdist; print("-n 2")' 2>/dev/null)

# PYTHON if given, else the first that is new enough, else python3 for the sentence about its age.
BOOTSTRAP = python="$(PYTHON)"; \
	for name in python3 python3.14 python3.13 python3.12 python3.11; do test -n "$$python" || \
		{ $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$$name; }; done; \
	python=$${python:-python3}; \
	command -v "$$python" >/dev/null || { echo "set-up: no $$python here. Install Python 3.11 or newer" \
		"(python.org or your system's packages), or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }; \
	"$$python" bootstrap.py

.DEFAULT_GOAL := help
.PHONY: help spam-classifier spam-methods instruct seq2seq tagger pretrain architectures serve test test-all test-faults mutate verify-resume check smoke bench docs doctor clean setup setup-dev
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  Options of a run: CSV=my.csv (pretrain: TEXT=my.txt) WEIGHTS=gpt2 METHOD=last-blocks NAME=mine ARGS="--set train.epochs=3"'
	@echo '  Option of the set-up: PYTHON=python3.12'
	@echo
	@echo '  Results are in runs/. More commands: $(PY) -m finetune --help'

spam-classifier: setup ## fine-tune GPT-2 as a spam classifier, from download to report
	@$(PY) -m finetune run spam-classifier $(SETTINGS)

spam-methods: setup ## compare all fine-tuning methods on one split, in one table
	@$(PY) -m finetune run spam-methods $(SETTINGS)

instruct: setup ## train a model to answer as in your pairs: make instruct DATA=my.jsonl
	@$(PY) -m finetune run instruct $${DATA:+--set "data=$$DATA"} $(SETTINGS)

seq2seq: setup ## train on pairs of texts, by default numbers and their words: make seq2seq DATA=my.tsv
	@$(PY) -m finetune run seq2seq $${DATA:+--set "data=$$DATA"} $(SETTINGS)

tagger: setup ## find names in sentences, by default people, places and organisations: make tagger DATA=my.conll
	@$(PY) -m finetune run tagger $${DATA:+--set "data=$$DATA"} $(SETTINGS)

pretrain: setup ## continue pretraining on your own text: make pretrain TEXT=my.txt
	@$(PY) -m finetune run pretrain $${TEXT:+--set "data=$$TEXT"} $(SETTINGS)

architectures: setup ## compare encoder, decoder and encoder-decoder: make architectures ARGS=--quick
	@$(PY) -m finetune compare-architectures $${CSV:+--data "$$CSV"} $${WEIGHTS:+--set "weights=$$WEIGHTS"} \
		$${NAME:+--name "$$NAME"} $(ARGS)

serve: setup ## serve a page to try a run in the browser: make serve NAME=spam-classifier
	@$(PY) -c 'import fastapi, uvicorn' 2>/dev/null || \
		$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[serve]'
	@$(PY) -m finetune serve "runs/$${NAME:-spam-classifier}" $(ARGS)

test: setup-dev ## run the tests, without the slow ones
	@$(PYTEST) -m "not slow"

test-all: setup-dev ## run every test
	@$(PYTEST)

test-faults: setup-dev ## kill runs, damage files, fill the disk: the campaigns of docs/reliability.md; takes an hour or two
	@for campaign in kills fuzz disk suites; do \
		$(PY) tests/faults/campaigns/$$campaign.py $$(test $$campaign = kills && echo --tries 100) || exit; done

mutate: setup-dev ## mutation testing: which of 300 small faults in the code do the tests notice? takes an hour or more
	@$(PY) tests/mutants/mutate.py $(ARGS)

verify-resume: setup ## kill runs and check that they resume to bit-identical results; takes about two minutes
	@$(PY) tests/faults/campaigns/kills.py --seconds 100

check: setup-dev ## check style and format (ruff), types (mypy), and the repository and its documents (tests/repo)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PYTEST) tests/repo

smoke: setup ## run a complete small example in a temporary folder; takes about a minute
	@here=$$PWD; folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && \
		"$$here/$(PY)" -m finetune run spam-classifier --name smoke \
		--set weights=random-bytes --set train.epochs=1

bench: setup-dev ## run a short set of the benchmarks, as a table of ratios
	@$(PY) benchmarks/short.py $(ARGS)

docs: setup-dev ## build this project's guides, lessons and reference as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "site: build/site/index.html   (with its search: $(PY) -m http.server --directory build/site)"

doctor: setup ## print a summary of this machine for a bug report
	@$(PY) -m finetune doctor

clean: ## remove .venv, builds and caches, but never runs/ or downloads
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name runs -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@$(BOOTSTRAP)

setup-dev:
	@$(BOOTSTRAP) --dev
