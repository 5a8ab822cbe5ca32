"""Chains rounds into a training.

    fl_round ─► fl_round ─► fl_round ─► …

Flat, so that the Kubeflow UI shows round beside round. How many is fixed when it is compiled: an input could only do
it by conditions nested in each other, which buries round 7 seven levels down.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from kfp import compiler, components, dsl

from fededge.errors import InputError

MAX_ROUNDS = 20
# Argo keeps a run in 1 MiB: a round needs some 90 KB of it, and each batch of a loop 5. By Argo's own packer, 5 rounds
# with 100 batches in all are 970 KB, and 8 with Jobs of 500 batches each 900.
ON_KUBEFLOW = {"fl_training": 5, "fl_training_job": 8}
_MAX_BATCHES_A_RUN = 100
_BATCHES = "max_batches"
_TYPES: dict[str, type] = {"String": str, "Integer": int, "Float": float, "Boolean": bool}


def chain_rounds(round_yaml: Path, rounds: int) -> Any:
    """Make the pipeline of a training from the compiled pipeline of a round.

    Its inputs are the round's, described alike; each round starts from the version that the one before made. Where a
    round starts a task for each batch, how many these may be is no input: the rounds share what a run can hold. It has
    the time of all of them.

    Args:
      round_yaml: `fl_round.yaml` or `fl_round_job.yaml`.
      rounds: how many, 1 to `MAX_ROUNDS`.

    Returns:
      A kfp pipeline, ready to be compiled.

    Raises:
      InputError: `rounds` is out of range.
    """
    check_rounds(rounds)
    fl_round = components.load_component_from_file(str(round_yaml))
    # kfp's own specs of a loaded component lack the descriptions.
    described = fl_round.pipeline_spec.root.input_definitions.parameters
    fixed = {_BATCHES: _MAX_BATCHES_A_RUN // rounds} if _fans_out(fl_round) else {}
    inputs = {name: spec for name, spec in fl_round.component_spec.inputs.items() if name not in fixed}

    def fl_training(*values: Any) -> Any:
        arguments = dict(zip(inputs, values, strict=True))
        for number in range(1, rounds + 1):
            done = fl_round(**arguments, **fixed)
            done.set_display_name(f"round {number} of {rounds}").set_caching_options(False)
            arguments["base_version"] = done.output
        return done.output

    fl_training.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(name, spec) for name, spec in inputs.items()], return_annotation=str
    )
    fl_training.__doc__ = _docstring(rounds, {name: described[name].description for name in inputs})
    name = fl_round.pipeline_spec.pipeline_info.name.replace("round", "training")
    limit = dsl.PipelineConfig(active_deadline_seconds=rounds * _seconds(fl_round))
    return dsl.pipeline(name=name, description=_summary(rounds), pipeline_config=limit)(fl_training)


def _seconds(fl_round: Any) -> int:
    """Return how long a run of one round may take."""
    return int(fl_round.platform_spec.platforms["kubernetes"].pipelineConfig.active_deadline_seconds)


def _fans_out(fl_round: Any) -> bool:
    """Whether a round starts a task for each batch; Jobs are not the run's to keep in mind."""
    return any(task.HasField("parameter_iterator") for task in fl_round.pipeline_spec.root.dag.tasks.values())


def check_rounds(rounds: int, on_kubeflow: str = "") -> None:
    """Make sure that a pipeline can have so many rounds.

    Args:
      rounds: how many.
      on_kubeflow: name of the training's pipeline; empty if it is to run on this machine.

    Raises:
      InputError: it cannot.
    """
    most = ON_KUBEFLOW.get(on_kubeflow, MAX_ROUNDS)
    if not 1 <= rounds <= most:
        remedy = (
            "more are too much for one run on Kubeflow; `fededge train` makes each round a run of its own, and so does "
            "`fededge schedule create`"
            if on_kubeflow
            else "for a longer training, run the pipeline again, each run goes on where the last one stopped"
        )
        raise InputError(f"rounds={rounds} must be between 1 and {most}: {remedy}")


def compile_training(round_yaml: Path, rounds: int, to: Path) -> None:
    """Write the YAML of a training."""
    compiler.Compiler().compile(chain_rounds(round_yaml, rounds), str(to))


def _parameter(name: str, spec: Any) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    annotation = _TYPES[spec.type]
    return inspect.Parameter(name, kind, default=annotation(spec.default), annotation=annotation)


def _summary(rounds: int) -> str:
    return f"Federated training, {rounds} rounds: data stay on the devices."


def _docstring(rounds: int, inputs: dict[str, str]) -> str:
    lines = [f"        {name}: {description}" for name, description in inputs.items()]
    return "\n".join([_summary(rounds), "", "    Args:", *lines, "", "    Returns:", "        The last version.", ""])
