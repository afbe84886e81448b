#!/usr/bin/env bash
# What the tests do for seconds, at length: runs go on from every step, servers are killed and stopped 25 times, run 50 jobs and a
# job of 100 rounds, the disk fills up, folders and files are damaged at random.
#   bash scripts/soak.sh [pytest arguments]
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/setup.sh" dev
cd "$ROOT"
export SOAK=1 SOAK_KILLS="${SOAK_KILLS:-25}" SOAK_FUZZ_SECONDS="${SOAK_FUZZ_SECONDS:-600}"
say "pytest"
exec "$PYTHON" -P -m pytest -v --log-cli-level=INFO tests/test_resume.py tests/test_run_folder.py tests/test_run_folder_crash.py \
  tests/test_run_folder_damage.py tests/test_lora_load.py tests/host/test_kept.py tests/host/test_soak.py "$@"
