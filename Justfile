# Recipes pass their arguments on: `./just demo --json`, `./just test tests/wire -k frame`.
# `./just` (the committed launcher) makes the environment first; an installed `just` works inside it as well.

set positional-arguments

[private]
default:
    @just --list

# make every environment and fetch every locked input, so that the rest runs offline
setup *args:
    @python -m appliance.cli setup "$@"

# the whole network on this machine, on real parts
demo *args:
    @python -m appliance.cli demo "$@"

# the appliance image from locked inputs: `just image --profile engine-gpu`; needs root
image *args:
    @python -m appliance.cli image build "$@"

# build the image at least twice under different conditions and compare every artefact
image-check *args:
    @python -m appliance.cli image check "$@"

# the test suite
test *args:
    @python -m pytest "$@"

# ruff, mypy --strict, the import rules
lint *args:
    @ruff check "$@" .
    @ruff format --check .
    @mypy
    @lint-imports

# rewrite to the house format
fmt *args:
    @ruff format "$@" .
    @ruff check --fix-only .

# make the lock files anew from their inputs, say what changes, and leave it for review
lock *args:
    @python scripts/lock_all.py "$@"

# search every parser of outside bytes for inputs that break it: `just fuzz --seconds 60 --target spdm`
fuzz *args:
    @python tests/fuzz/fuzz_run.py "$@"

# ratios within one run; figures for docs/performance.md
bench *args:
    @python benchmarks/run.py "$@"

# remove what building and testing left in the checkout
clean *args:
    @python scripts/clean.py "$@"
