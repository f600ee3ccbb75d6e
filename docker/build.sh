#!/bin/bash
# Builds images patiently: `docker compose ARGUMENTS... build --quiet`, tried again where the network gives up halfway
# (what was built stays in the cache).
#   docker/build.sh --profile default
set -euo pipefail
cd "$(dirname "$0")/.."

# Where this machine's pip offers PyTorch's CPU build by itself, the image gets that wheel; else the build asks PyTorch's index.
torch=${TORCH:-torch==2.13.0}
pip() { "${PYTHON:-python3}" -m pip --disable-pip-version-check "$@"; }
cpu_torch() { pip install -q --dry-run --ignore-installed --no-deps --report - "$torch" 2>/dev/null | grep -o '"version": "[^"]*+cpu"'; }
if ! ls docker/wheels/torch-*.whl >/dev/null 2>&1 && cpu_torch >/dev/null; then
    pip download -q --no-deps --only-binary :all: --python-version 3.11 -d docker/wheels "$torch"
fi

for pause_s in 5 20 60 0; do
    docker compose "$@" build --quiet && exit
    [ "$pause_s" = 0 ] || { echo "build: failed, once more in $pause_s s" >&2 && sleep "$pause_s"; }
done
exit 1
