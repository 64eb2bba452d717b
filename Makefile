# make demo    a real model measured, tuned, measured again and compared, on this machine
# make test    every check: style, types, tests, real models included
# make quick   the same without the real models
# make sanitize  the native code under AddressSanitizer and UndefinedBehaviorSanitizer, with and without AVX512
# make methods  every PEFT method on six architectures, into docs/methods.md: twenty minutes of one core
# make docs     the documentation as a site, in build/site; mkdocs serve shows it
# make release-check  wheel and sdist built, installed in an empty environment without extras, and tried there
# make notebooks  the notebooks of examples/ executed, their output kept: some minutes each
# make kernels-elsewhere  the native code for aarch64 under emulation, and by clang without OpenMP
# make oldest  the tests with the oldest dependencies allowed, in an environment of their own; make newest: the newest

PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test quick sanitize methods docs oldest newest release-check notebooks kernels-elsewhere check clean

demo: .venv/installed
	$(BIN)/tunelift demo

# A file of tests on each core, one thread each: threads that wait for each other make two such runs slower than one.
TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: .venv/installed-dev check
	$(TESTS)

quick: .venv/installed-dev check
	$(TESTS) -m "not e2e"

# Native code is compiled with both sanitizers and a fault ends the process; torch's own leaks are not looked for.
SANITIZERS = $$(cc -print-file-name=libasan.so):$$(cc -print-file-name=libubsan.so)
SANITIZED = LD_PRELOAD=$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	TUNELIFT_KERNELS=sanitize $(BIN)/python -m pytest -p no:faulthandler tests/fast tests/parity tests/serving/test_serving_layers.py

sanitize: .venv/installed-dev
	$(SANITIZED)
	ATEN_CPU_CAPABILITY=avx2 $(SANITIZED)

oldest: WITH := --constraint constraints-oldest.txt --editable '.[data,text,gguf,dev]'
newest: WITH := --editable '.[data,text,demo,harness,dev]'

oldest newest:
	$(PYTHON) -m venv .venv-$@
	.venv-$@/bin/pip install --quiet $(WITH)
	.venv-$@/bin/python -m pytest -m "not e2e"

# On Debian: apt-get install gcc-aarch64-linux-gnu qemu-user clang; a target whose tools are not there is skipped.
kernels-elsewhere: .venv/installed-dev
	OMP_NUM_THREADS=2 $(BIN)/python tests/fast/elsewhere.py

notebooks: .venv/installed-dev
	$(BIN)/python docs/notebooks.py

# What was found is kept in methods.json, and the same command goes on; remove it to begin anew.
methods: .venv/installed-dev
	$(BIN)/python benchmarks/methods.py --write docs/methods.md

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release-check: .venv/installed-dev
	PYTHONPATH=tests $(BIN)/python tests/release_check.py --python $(PYTHON)

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-oldest .venv-newest build dist .mypy_cache .pytest_cache .ruff_cache

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[data,demo]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[data,text,demo,dev]'
	touch $@
