"""Our images, built as people build them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import fededge

REPOSITORY = Path(__file__).parents[2]


@functools.cache
def build(docker_host: str, name: str) -> str:
    """Build an image on an engine, once.

    Args:
      docker_host: of the engine.
      name: as in the folder `images/`.

    Returns:
      The image's name and tag.
    """
    environment = {
        **os.environ,
        "DOCKER_HOST": docker_host,
        "DOCKER_BUILDKIT": "0",
        "TAG": fededge.__version__,
        "BUILD_FLAGS": os.environ.get("BUILD_FLAGS", "--network host"),
        # uv is beside this interpreter, also where the environment is not activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    done = subprocess.run([REPOSITORY / "images" / "build.sh", name], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return f"fededge-{name}:{fededge.__version__}"
