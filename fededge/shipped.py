"""Files that come with FedEdge: compiled pipelines and the locks of the images."""

from __future__ import annotations

from pathlib import Path

from fededge.errors import SetupError

_PACKAGE = Path(__file__).parent


def shipped_file(name: str) -> Path:
    """Find a file by its path in the repository: in the wheel's copy, or in the checkout this runs from.

    Raises:
      SetupError: it is in neither.
    """
    for root in (_PACKAGE / "shipped", _PACKAGE.parent):
        if (root / name).is_file():
            return root / name
    raise SetupError(f"{name} is missing from this installation: install FedEdge again")


def compiled_pipeline(name: str) -> Path:
    return shipped_file(f"pipelines/compiled/{name}.yaml")


def image_names() -> list[str]:
    """Name the images that come with a lock, as `tensorflow`."""
    roots = (_PACKAGE / "shipped", _PACKAGE.parent)
    return sorted({lock.parent.name for root in roots for lock in root.glob("images/*/requirements.lock")})


def pipeline_names() -> list[str]:
    """Name the pipelines that come compiled, as `fl_round`."""
    roots = (_PACKAGE / "shipped", _PACKAGE.parent)
    return sorted({path.stem for root in roots for path in root.glob("pipelines/compiled/*.yaml")})
