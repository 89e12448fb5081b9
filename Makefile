# The environment lives in .venv; every target makes it first, from requirements.lock, if it is not there or out of date.
# The library is built by the packages of that environment: from one of its own, new each time, scikit-build-core throws
# away all that was compiled, which takes minutes again.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check format sanitize fuzz faults bench gpu gpu-compile-check docs wheel lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

demo: $(STAMP)  ## train convolution and involution on real handwritten digits, compare them, open the report
	$(BIN)/involution compare digits --open

# Hundreds of processes are started, and each would compile all that it imports where bytecode is not kept.
test: $(STAMP)  ## run all tests (set INVOLUTION_DATA to a folder with data sets to include the tests that need them)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n auto

check: $(STAMP)  ## lint, check the formatting, check the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## format the code and repair what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sanitize: $(STAMP)  ## run the tests of the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	cmake -S . -B build/sanitize -DINVOLUTION_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug
	cmake --build build/sanitize --parallel
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2 \
		INVOLUTION_NATIVE_LIBRARY=build/sanitize/libinvolution_native.so \
		$(BIN)/python -m pytest -p no:xdist tests/test_native.py tests/test_generation.py tests/test_half_precision.py tests/test_torch_operators.py tests/test_onnxruntime.py -k "not rednet and not 31_values and not compiles and not keep_no_memory"

MINUTES ?= 5
fuzz: $(STAMP)  ## call operators and readers with random arguments and mutated files (MINUTES=5); keep what fails
	PYTHONPATH=tests $(BIN)/python -m fuzzing --minutes $(MINUTES)

faults: $(STAMP)  ## kill, fill the disk, take files away and double writers under a training; record what was said and lost
	PYTHONPATH=tests $(BIN)/python -m faults

# The commands below the tables of docs/performance.md, but for that of trained nets, which takes a folder of images. The
# words of README are of two threads, and so are its tables, whatever THREADS is.
THREADS ?= 2
ON = cpu-$(THREADS)-thread$(if $(filter-out 1,$(THREADS)),s)
RUNS = for run in 1 2 3; do $(BIN)/python -m benchmarks.$(1) --threads $(THREADS) --run $$run || exit 1; done
bench: $(STAMP)  ## measure operator and nets on the CPU (THREADS=2) against their peers, write records and pages; hours
	$(call RUNS,operator)
	$(call RUNS,nets --depths 50 --compile --bfloat16 --rounds 20)
	$(BIN)/python -m benchmarks.nets --threads $(THREADS) --depths 50 --compile --bfloat16 --rounds 15 --name nets-compiled-$(ON)
	$(call RUNS,nets --freeze --bfloat16 --rounds 20)
	$(BIN)/python -m benchmarks.nets --threads $(THREADS) --rounds 20 --skip-training
	$(BIN)/python -m benchmarks.scaling --threads $(THREADS) --rounds 10
	$(BIN)/python -m benchmarks.without --threads $(THREADS)
	$(BIN)/python -m benchmarks.training --threads $(THREADS)
	$(BIN)/python -m benchmarks.segmenters --threads $(THREADS) --rounds 4
	$(BIN)/python -m benchmarks.detectors --threads $(THREADS) --rounds 3
	$(BIN)/involution benchmark rednet50 resnet50 --threads $(THREADS) --dtype float32 bfloat16 --batch 1 8 --processes 5
	$(BIN)/involution benchmark rednet50 resnet50 --threads $(THREADS) --dtype float32 bfloat16 --batch 1 8 --processes 3 \
		--profile --name engines-$(ON)-run-2
	cp runs/benchmark/engines-$(ON).json runs/benchmark/engines-$(ON)-run-2.json results
	$(BIN)/python -m benchmarks.family --threads $(THREADS)
	$(BIN)/python -m tools.tables
	$(BIN)/python -m tools.front_page
	$(BIN)/python -m tools.reproduction
	$(BIN)/python -m tools.family

gpu-compile-check: $(STAMP)  ## compile every GPU kernel without a GPU, check registers, spills and loads
	$(BIN)/python -m benchmarks.compile_check

gpu: $(STAMP)  ## on a machine with a GPU: its tests, parity, benchmarks; records go to runs/gpu
	$(BIN)/python -m benchmarks.gpu

docs: $(STAMP)  ## build the documentation into docs/_build, with the page of involution demo where npm is there
	-$(BIN)/involution demo --no-serve --out build/site/demo
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

wheel: $(STAMP)  ## build the wheel of this platform and the source archive into dist
	$(BIN)/python -m build --outdir dist

lock: $(STAMP)  ## resolve the newest versions that pyproject.toml allows into requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --all-extras --group dev pyproject.toml --output-file requirements.lock

clean:  ## remove the environment and everything that was built
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache

$(STAMP): requirements.lock pyproject.toml CMakeLists.txt $(wildcard src/involution/backends/native/csrc/* src/involution/backends/native/include/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "Could not create .venv; Python >= 3.11 with the venv module is needed (Debian: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
