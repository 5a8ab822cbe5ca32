#!/usr/bin/env bash
# Builds images: the wheel, then fededge-NAME:TAG for each NAME, by default for every folder here with a Dockerfile.
#   images/build.sh [NAME…]
# Environment:
#   TAG            default: the version in fededge/__init__.py
#   BASE_IMAGE     default: what the Dockerfile names
#   SOURCE         URL of the source code, for the image's label
#   PIP_INDEX_URL  the package index to use inside the build
#   PIP_FIND_LINKS where images/wheels.sh finds what PyPI lacks, so that it need not download that
#   BUILD_FLAGS    more options for `docker build`, such as "--network host"
# Needs docker, git, and uv, which the control environment contains.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then
  for dockerfile in images/*/Dockerfile; do
    set -- "$@" "$(basename "$(dirname "$dockerfile")")"
  done
fi

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' fededge/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [ "$revision" != unknown ] && [ -n "$(git status --porcelain)" ]; then
  revision=$revision-dirty
fi

uv build --quiet --wheel --out-dir dist

arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
for name in BASE_IMAGE SOURCE PIP_INDEX_URL; do
  if [ -n "${!name:-}" ]; then
    arguments+=(--build-arg "$name")   # without a value: docker takes it from the environment
  fi
done
read -ra flags <<<"${BUILD_FLAGS:-}"

# In the context of the one image that needs them: they are large.
wheels=dist/wheels
trap 'rm -rf "$wheels"' EXIT
for name; do
  rm -rf "$wheels"
  images/wheels.sh "$name" "$wheels"
  docker build ${flags[@]+"${flags[@]}"} "${arguments[@]}" --file "images/$name/Dockerfile" \
    --tag "fededge-$name:${TAG:-$version}" .
done
