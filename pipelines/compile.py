"""Writes pipelines/compiled/*.yaml, byte for byte the same on every run: `make compile`."""

from pathlib import Path

from kfp import compiler

from fededge.kubeflow.rounds import compile_training
from pipelines.fl_comparison import fl_comparison
from pipelines.fl_deploy import fl_deploy
from pipelines.fl_round import fl_round
from pipelines.fl_round_job import fl_round_job
from pipelines.fl_training import ROUNDS

COMPILED = Path(__file__).parent / "compiled"


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Compile every pipeline into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for pipeline in (fl_round, fl_round_job, fl_comparison, fl_deploy):
        written.append(folder / f"{pipeline.pipeline_func.__name__}.yaml")
        compiler.Compiler().compile(pipeline, str(written[-1]))
    for one_round in written[:2]:
        training = one_round.with_name(one_round.name.replace("round", "training"))
        compile_training(one_round, ROUNDS, training)
        written.append(training)
    return written


if __name__ == "__main__":
    for path in compile_all():
        print(f"{path}: {path.stat().st_size} bytes")
