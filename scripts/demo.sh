#!/usr/bin/env bash
# Erase one designer's style inside a real ComfyUI, from nothing, and show what happened.
#   bash scripts/demo.sh [--style ink] [--seed 0] [--help]
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
case " $* " in *" --help "* | *" -h "*) exec python3 "$ROOT/scripts/run_demo.py" --help ;; esac
source "$ROOT/scripts/setup.sh" run
exec "$PYTHON" "$ROOT/scripts/run_demo.py" "$@"
