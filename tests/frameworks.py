"""Which of the tests can run here: each framework is in its own image's environment.

A test's file says by its name what it needs: test_torch*.py PyTorch, test_sklearn*.py scikit-learn and skops, any other
TensorFlow. That is for the folders that run in the images' environments; the others need none.
"""

from __future__ import annotations

import importlib.util
import warnings
from fnmatch import fnmatch
from pathlib import Path

# skops tells the sklearn image from the others, which have scikit-learn for its data.
_NEEDS = {
    "test_train_in_jobs.py": ("kubernetes_validate",),  # the stand-in for a cluster does, in the control environment
    "test_deploy_model.py": ("kubernetes_validate",),  # too
    "test_torch*.py": ("torch",),
    "test_normalized*.py": (),
    "test_sklearn*.py": ("sklearn", "skops"),
    "test_*.py": ("tensorflow_federated",),
}


def _have(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


HAVE_TENSORFLOW = _have("tensorflow_federated")


def ignore_without_frameworks(folder: Path) -> list[str]:
    """Tell pytest's collection what to leave out of a folder.

    Args:
      folder: of the tests.

    Returns:
      The names of the files, for `collect_ignore`.
    """
    if HAVE_TENSORFLOW:
        load_tensorflow()
    return [path.name for path in sorted(folder.glob("test_*.py")) if not _have(*_needs(path.name))]


def _needs(file: str) -> tuple[str, ...]:
    return next(modules for pattern, modules in _NEEDS.items() if fnmatch(file, pattern))


def load_tensorflow() -> None:
    """Load it once without its warnings: warnings are errors in our tests, and those of its modules are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fededge.learners.keras import tensorflow_federated

        tensorflow_federated()
