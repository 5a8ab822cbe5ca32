"""The documentation's example of a workload of one's own, installed beside the steps' packages."""

from __future__ import annotations

from pathlib import Path

from fededge.environments import environment, make
from fededge.store.trainings import TrainingStore
from tests.pipeline.conftest import fededge, store_in

EXAMPLE = Path(__file__).parents[2] / "examples" / "tumours"


def test_example_trains_with_its_package_beside_the_lock(tmp_path: Path) -> None:
    done = fededge(
        tmp_path, "run", "tumours", "--workload", "tumours.workload:workload", "--with", str(EXAMPLE),
        "--clients", "6", "--rounds", "2", "--json",
    )  # fmt: skip
    assert done.json["version"] == "v2"
    trainings = TrainingStore(store_in(tmp_path), "tumours")
    assert [accepted.client for accepted in trainings.version().accepted] == [f"hospital-{i}" for i in range(6)]
    assert trainings.version().metrics["accuracy"] > 0.85


def test_locked_packages_are_untouched() -> None:
    wanted = environment("tensorflow", [str(EXAMPLE)])
    assert wanted.path == environment("tensorflow").path
    assert wanted.extras_path is not None
    installed = {path.name for path in wanted.extras_path.iterdir() if path.suffix == ".dist-info"}
    assert installed == {"tumours-0.1.0.dist-info"}


def test_an_edited_package_is_installed_anew(tmp_path: Path) -> None:
    """At the same path, with the same pyproject.toml, which alone decides what uv takes from its cache."""
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "edited"\nversion = "1"\n[tool.hatch.build.targets.wheel]\ninclude = ["edited.py"]\n'
    )
    for number in range(3):
        (tmp_path / "edited.py").write_text(f"NUMBER = {number}\n")
        wanted = environment("tensorflow", [str(tmp_path)])
        make(wanted, print)
        assert wanted.extras_path is not None
        assert (wanted.extras_path / "edited.py").read_text() == f"NUMBER = {number}\n"


def test_a_package_that_needs_other_versions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "clash"\nversion = "1"\ndependencies = ["numpy>=2"]\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["clash.py"]\n'
    )
    (tmp_path / "clash.py").write_text("")
    done = fededge(tmp_path, "run", "--workload", "clash:workload", "--with", str(tmp_path))
    assert done.code == 3
    assert "numpy" in done.err
    assert "Traceback" not in done.err
