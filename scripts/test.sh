#!/usr/bin/env bash
# All checks: style, types, templates, unit tests and tests against a real ComfyUI server.
#   bash scripts/test.sh [pytest arguments]
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/setup.sh" dev
cd "$ROOT"
say "ruff"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
say "pyright"
"$PYTHON" -m pyright --pythonpath "$PYTHON"
say "pytest"
# Two processes of one thread each, a file at a time: torch would take every core for each of them.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# -P: the folder nodes/ of this pack must not shadow the host's nodes.py.
exec "$PYTHON" -P -m pytest -n 2 --dist loadfile "$@"
