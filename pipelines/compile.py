"""Writes pipelines/compiled/*.yaml, byte for byte the same on every run: `make compile`."""

from pathlib import Path

from kfp import compiler

from fededge.kubeflow.rounds import compile_training
from pipelines.fl_round import fl_round
from pipelines.fl_training import ROUNDS

COMPILED = Path(__file__).parent / "compiled"


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Compile every pipeline into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    one_round, training = folder / "fl_round.yaml", folder / "fl_training.yaml"
    compiler.Compiler().compile(fl_round, str(one_round))
    compile_training(one_round, ROUNDS, training)
    return [one_round, training]


if __name__ == "__main__":
    for path in compile_all():
        print(f"{path}: {path.stat().st_size} bytes")
