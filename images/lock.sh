#!/usr/bin/env bash
# Writes every lock of the repository from its inputs.
#   images/lock.sh             keeps the pins that a lock already has, as far as its inputs allow
#   images/lock.sh --upgrade   takes the newest versions that the inputs allow (any option of `uv pip compile` works)
# Needs uv, which the control environment contains.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() {
  uv pip compile --quiet --generate-hashes --python-version 3.11 --custom-compile-command images/lock.sh "$@"
}

# images/tensorflow/requirements.lock. What only serves to build software stays out; nothing imports it at run time
# (tensorflow requires libclang, setuptools and wheel, tensorflow-federated's google-vizier requires grpcio-tools).
image=images/tensorflow
lock=$work/image.lock
[ ! -e $image/requirements.lock ] || cp $image/requirements.lock "$lock"   # the pins to keep
compile "$@" --python-platform x86_64-manylinux_2_36 --only-binary :all: --override $image/overrides.txt \
  --no-emit-package grpcio-tools --no-emit-package libclang --no-emit-package setuptools --no-emit-package wheel \
  $image/requirements.in --output-file "$lock" >/dev/null
compile --no-header --no-deps --python-platform x86_64-manylinux_2_36 $image/executor.in >>"$lock"

# requirements.lock: the control environment, and what an editable install of this project is built with.
build_requires() {
  python3 - <<'PYTHON'
import pathlib
import tomllib

print(*tomllib.loads(pathlib.Path("pyproject.toml").read_text())["build-system"]["requires"], "editables", sep="\n")
PYTHON
}
control=$work/control.lock
[ ! -e requirements.lock ] || cp requirements.lock "$control"
build_requires | compile "$@" --universal --group dev pyproject.toml - --output-file "$control" >/dev/null

cp "$lock" $image/requirements.lock
cp "$control" requirements.lock
