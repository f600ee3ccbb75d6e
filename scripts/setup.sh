#!/usr/bin/env bash
# Usage: scripts/setup.sh VENV REQUIREMENT
# Makes a virtual environment and installs REQUIREMENT (of this checkout) with PyTorch's CPU build. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 requirement=$2
torch=${TORCH:-torch==2.13.0}
cpu_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

usable() { "$1" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_pip() { "$1" -c 'import ensurepip' 2>/dev/null; }

# The system's interpreter comes first: other users can read it, which one behind a version manager's shim often is not.
find_python() {
    local name path
    for name in ${PYTHON:-} /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3; do
        path=$(command -v "$name") && usable "$path" && { [ "${1:-}" = any ] || has_pip "$path"; } && { echo "$path"; return; }
    done
    return 1
}

if [ ! -x "$venv/bin/python" ]; then
    if ! python=$(find_python); then
        python=$(find_python any) || { echo "setup: no Python 3.11 or newer found; install python3, or set PYTHON=/path/to/it" >&2; exit 1; }
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
        fi
        has_pip "$python" || { echo "setup: $python cannot make virtual environments; install the package python3-venv" >&2; exit 1; }
    fi
    "$python" -m venv "$venv"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -q --upgrade 'pip>=24'

if [[ $requirement == *trainer* ]] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    # PyTorch's default build for Linux carries gigabytes of CUDA, which the demo and the tests do not need.
    if pip install -q --dry-run --no-deps --report - "$torch" 2>/dev/null | grep -q '"version": "[^"]*+cpu"'; then
        pip install -q "$torch"
    elif [ "$(uname -s)" = Linux ]; then
        pip install -q --index-url "$cpu_index" "$torch"
    else
        pip install -q "$torch"
    fi
fi
pip install -q -e "$requirement"
echo "setup: $venv is ready ($("$venv/bin/python" --version))"
