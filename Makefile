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

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  A run takes: CSV=my.csv (pretrain: TEXT=my.txt) WEIGHTS=gpt2 METHOD=last-blocks NAME=mine ARGS="--set train.epochs=3"'
	@echo '  The set-up takes: PYTHON=python3.12'
	@echo
	@echo '  Results are in runs/. More commands: $(PY) -m finetune --help'

spam-classifier: setup ## a spam classifier from GPT-2, start to report
	@$(PY) -m finetune run spam-classifier $(SETTINGS)

spam-methods: setup ## every way to adapt the weights on one split, in one table
	@$(PY) -m finetune run spam-methods $(SETTINGS)

instruct: setup ## a model that answers in the form of your pairs: make instruct DATA=my.jsonl
	@$(PY) -m finetune run instruct $${DATA:+--set "data=$$DATA"} $(SETTINGS)

seq2seq: setup ## from source to target, here numbers to words: make seq2seq DATA=my.tsv
	@$(PY) -m finetune run seq2seq $${DATA:+--set "data=$$DATA"} $(SETTINGS)

tagger: setup ## names in sentences, here people, places, organisations: make tagger DATA=my.conll
	@$(PY) -m finetune run tagger $${DATA:+--set "data=$$DATA"} $(SETTINGS)

pretrain: setup ## weights that read your text first: make pretrain TEXT=my.txt
	@$(PY) -m finetune run pretrain $${TEXT:+--set "data=$$TEXT"} $(SETTINGS)

architectures: setup ## encoder, decoder and encoder-decoder side by side: make architectures ARGS=--quick
	@$(PY) -m finetune compare-architectures $${CSV:+--data "$$CSV"} $${WEIGHTS:+--set "weights=$$WEIGHTS"} \
		$${NAME:+--name "$$NAME"} $(ARGS)

serve: setup ## a page to try a run in the browser: make serve NAME=spam-classifier
	@$(PY) -c 'import fastapi, uvicorn' 2>/dev/null || \
		$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[serve]'
	@$(PY) -m finetune serve "runs/$${NAME:-spam-classifier}" $(ARGS)

test: setup-dev ## the tests, without the slow ones
	@$(PYTEST) -m "not slow"

test-all: setup-dev ## every test
	@$(PYTEST)

test-faults: setup-dev ## kill runs, damage files, fill the disk: the campaigns of docs/reliability.md, an hour or two
	@for campaign in kills fuzz disk suites; do \
		$(PY) tests/faults/campaigns/$$campaign.py $$(test $$campaign = kills && echo --tries 100) || exit; done

mutate: setup-dev ## plant 300 small faults in the code, one at a time: which do the tests notice? an hour or more
	@$(PY) tests/mutants/mutate.py $(ARGS)

verify-resume: setup ## see for yourself, in about two minutes: killed runs go on to the bits of an unbroken one
	@$(PY) tests/faults/campaigns/kills.py --seconds 100

check: setup-dev ## style and format (ruff), types (mypy), and the tests that hold the tree and the documents
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PYTEST) tests/repo

smoke: setup ## a whole small run in a temporary folder, about a minute
	@here=$$PWD; folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && \
		"$$here/$(PY)" -m finetune run spam-classifier --name smoke \
		--set weights=random-bytes --set train.epochs=1

bench: setup-dev ## a short set of the measurements in benchmarks/, as a table of ratios
	@$(PY) benchmarks/short.py $(ARGS)

docs: setup-dev ## this project's guides, lessons and reference as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "site: build/site/index.html   (with its search: $(PY) -m http.server --directory build/site)"

doctor: setup ## what this machine has, to paste into a bug report
	@$(PY) -m finetune doctor

clean: ## remove .venv, builds and caches; never runs/, never a download
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name runs -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@$(BOOTSTRAP)

setup-dev:
	@$(BOOTSTRAP) --dev
