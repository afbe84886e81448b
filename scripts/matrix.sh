#!/usr/bin/env bash
# The pack on the oldest and on the newest libraries that requirements.txt allows: the fast tests and
# a short run through the host's own samplers on each.
#   bash scripts/matrix.sh [oldest|newest|beside]...
#
#   oldest  every lower bound, with the oldest transformers that PEFT's bound works with
#   beside  the lower bounds beside the transformers that is installed
#   newest  what the index gives today
#
# Nothing is installed into the environment: each set lies in .host/matrix and goes before it on the
# path. torch is the environment's own.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SETS=("$@")
[ ${#SETS[@]} -gt 0 ] || SETS=(oldest beside newest)
set --
source "$ROOT/scripts/setup.sh" dev

# transformers 4.52 is the first with what peft 0.18 imports; the rest is what it was released with.
OLD_TRANSFORMERS=(transformers==4.52.4 tokenizers==0.21.1 huggingface_hub==0.30.2 accelerate==1.6.0)
HOST_TESTS=(tests/host/test_fresh_noise.py tests/host/test_session.py)

bounds() { sed -n 's/^\([A-Za-z0-9_-]*\)>=\(.*\)$/\1==\2/p' "$ROOT/requirements.txt"; }
names() { sed -n 's/^\([A-Za-z0-9_-]*\)>=.*$/\1/p' "$ROOT/requirements.txt"; }

packages() {
  case "$1" in
    oldest) bounds && printf '%s\n' "${OLD_TRANSFORMERS[@]}" ;;
    beside) bounds | grep -v '^safetensors' ;; # transformers has a bound of its own for that one
    newest) names ;;
    *) fail "$1 is no set of libraries: name oldest, beside or newest." ;;
  esac
}

for name in "${SETS[@]}"; do
  wanted="$(packages "$name")"
  folder="$ROOT/.host/matrix/$name"
  if [ "$name" = newest ] || [ "$(cat "$folder/wanted" 2>/dev/null)" != "$wanted" ]; then
    say "Fetching the $name libraries"
    rm -rf "$folder"
    # shellcheck disable=SC2086 # one word a package
    "$PYTHON" -m pip install --disable-pip-version-check -qq --no-deps --target "$folder" $wanted ||
      fail "the $name libraries could not be fetched: see the message above."
    printf '%s' "$wanted" >"$folder/wanted"
  fi
  say "$name: $(cd "$folder" && ls -d ./*.dist-info | sed 's|^./||; s|.dist-info$||' | tr '\n' ' ')"
  PYTHONPATH="$folder" "$PYTHON" -P -m pytest -q -m "not host"
  PYTHONPATH="$folder" "$PYTHON" -P -m pytest -q "${HOST_TESTS[@]}"
done
