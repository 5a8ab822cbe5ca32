"""Has kfp's local runner run each task with the interpreter of its image's environment.

The only place that touches what kfp keeps private: `kfp.local.subprocess_task_handler`, as in kfp 2.17.0.
"""

from __future__ import annotations

from collections.abc import Mapping

from kfp.local import status, subprocess_task_handler

from fededge.kubeflow.job import Interpreter


def use_interpreters(interpreters: Mapping[str, Interpreter]) -> None:
    """Change the local runner of this process.

    Args:
      interpreters: by image. Their variables win over those in the pipeline, which are a container's.
    """

    class ImageTaskHandler(subprocess_task_handler.SubprocessTaskHandler):  # type: ignore[misc]
        def validate_image(self, image: str) -> None:
            if image not in interpreters:
                raise RuntimeError(f"no environment for image {image}; there are {', '.join(interpreters)}")

        def run(self) -> status.Status:
            chosen = interpreters[self.image]
            command = subprocess_task_handler.replace_python_executable(self.full_command, str(chosen.python))
            code = subprocess_task_handler.run_local_subprocess(command, {**self.env_vars, **chosen.environment})
            return status.Status.SUCCESS if code == 0 else status.Status.FAILURE

    subprocess_task_handler.SubprocessTaskHandler = ImageTaskHandler
