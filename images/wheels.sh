#!/usr/bin/env bash
# Puts into a folder the wheels that an image needs and PyPI lacks: PyTorch's for CPUs, +cpu in requirements.in (190 MB).
# PyPI's own bring gigabytes of CUDA.
#   images/wheels.sh NAME FOLDER
# Environment:
#   PIP_FIND_LINKS as pip takes it: where to look first; what is not there comes from PyTorch's index
# Needs uv, which the control environment contains.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$2
index=https://download.pytorch.org/whl/cpu
mapfile -t wanted < <(sed -n 's/^\([a-z0-9-]*==[^ ]*+cpu\).*/\1/p' "images/$1/requirements.in")
[ ${#wanted[@]} -gt 0 ] || exit 0

download() {
  uv tool run --quiet pip==26.3 download --quiet --no-deps --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --dest "$folder" "$@" "${wanted[@]}"
}
# An index is not asked where links suffice: it may be out of reach.
download --no-index 2>/dev/null || download --index-url $index || {
  echo "images/wheels.sh: no ${wanted[*]} from $index: put the wheel into a folder, and PIP_FIND_LINKS=FOLDER" >&2
  exit 1
}
