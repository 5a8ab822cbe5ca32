#!/usr/bin/env bash
# Writes every lock of the repository from its inputs.
#   images/lock.sh             keeps the pins that a lock already has, as far as its inputs allow
#   images/lock.sh --upgrade   takes the newest versions that the inputs allow (any option of `uv pip compile` works)
# Needs uv, which the control environment contains. What PyPI lacks comes from where images/wheels.sh finds it.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() {
  uv pip compile --quiet --generate-hashes --python-version 3.11 --custom-compile-command images/lock.sh "$@"
}

# images/NAME/requirements.lock. What only serves to build software stays out; nothing imports it at run time
# (tensorflow requires libclang, setuptools and wheel, tensorflow-federated's google-vizier requires grpcio-tools;
# torch requires setuptools).
lock_image() {
  local image=images/$1 lock=$work/$1.lock build_only
  shift
  build_only=(grpcio-tools libclang setuptools wheel)
  [ ! -e "$image/requirements.lock" ] || cp "$image/requirements.lock" "$lock"   # the pins to keep
  mkdir "$work/wheels"
  # From a folder, wherever it comes from: an index would add the hashes of its wheels for other machines.
  images/wheels.sh "${image#images/}" "$work/wheels"
  compile "$@" --python-platform x86_64-manylinux_2_36 --only-binary :all: --override "$image/overrides.txt" \
    "${build_only[@]/#/--no-emit-package=}" --find-links "$work/wheels" \
    "$image/requirements.in" --output-file "$lock" >/dev/null
  rm -r "$work/wheels"
  [ ! -e "$image/executor.in" ] ||   # servers run no components
    compile --no-header --no-deps --python-platform x86_64-manylinux_2_36 "$image/executor.in" >>"$lock"
}

# requirements.lock: the control environment, and what an editable install of this project is built with.
build_requires() {
  python3 - <<'PYTHON'
import pathlib
import tomllib

print(*tomllib.loads(pathlib.Path("pyproject.toml").read_text())["build-system"]["requires"], "editables", sep="\n")
PYTHON
}

images=()
for requirements in images/*/requirements.in; do
  images+=("$(basename "$(dirname "$requirements")")")
done
for image in "${images[@]}"; do
  lock_image "$image" "$@"
done
control=$work/control.lock
[ ! -e requirements.lock ] || cp requirements.lock "$control"
build_requires | compile "$@" --universal --group dev pyproject.toml - --output-file "$control" >/dev/null

# All or none.
for image in "${images[@]}"; do
  cp "$work/$image.lock" "images/$image/requirements.lock"
done
cp "$control" requirements.lock
