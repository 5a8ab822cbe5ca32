"""Has kfp's local runner run each task with the interpreter of its image's environment.

The only place that touches what kfp keeps private: `kfp.local.subprocess_task_handler`, as in kfp 2.17.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kfp.local import status, subprocess_task_handler


def use_interpreters(pythons: Mapping[str, Path], environment: Mapping[str, str]) -> None:
    """Change the local runner of this process.

    Args:
      pythons: for each image its interpreter.
      environment: variables of every task; they win over those in the pipeline, which are a container's.
    """

    class ImageTaskHandler(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
        def validate_image(self, image: str) -> None:
            if image not in pythons:
                raise RuntimeError(f"no environment for image {image}; there are {', '.join(pythons)}")

        def run(self) -> status.Status:
            command = subprocess_task_handler.replace_python_executable(self.full_command, str(pythons[self.image]))
            code = subprocess_task_handler.run_local_subprocess(command, {**self.env_vars, **environment})
            return status.Status.SUCCESS if code == 0 else status.Status.FAILURE

    subprocess_task_handler.SubprocessTaskHandler = ImageTaskHandler
