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
_MAX_BATCHES_A_RUN = 100  # Argo keeps a run's state in 1 MiB
_FIXED = "max_batches"
_TYPES: dict[str, type] = {"String": str, "Integer": int, "Float": float, "Boolean": bool}


def chain_rounds(round_yaml: Path, rounds: int) -> Any:
    """Make the pipeline of a training from the compiled pipeline of a round.

    Its inputs are the round's, described alike; each round starts from the version that the one before made.

    Args:
      round_yaml: `fl_round.yaml`.
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
    inputs = {name: spec for name, spec in fl_round.component_spec.inputs.items() if name != _FIXED}

    def fl_training(*values: Any) -> Any:
        arguments = dict(zip(inputs, values, strict=True))
        for number in range(1, rounds + 1):
            done = fl_round(**arguments, **{_FIXED: _MAX_BATCHES_A_RUN // rounds})
            done.set_display_name(f"round {number} of {rounds}").set_caching_options(False)
            arguments["base_version"] = done.output
        return done.output

    fl_training.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(name, spec) for name, spec in inputs.items()], return_annotation=str
    )
    fl_training.__doc__ = _docstring(rounds, {name: described[name].description for name in inputs})
    return dsl.pipeline(name="fl-training", description=_summary(rounds))(fl_training)


def check_rounds(rounds: int) -> None:
    """Make sure that a pipeline can have so many rounds.

    Raises:
      InputError: it cannot.
    """
    if not 1 <= rounds <= MAX_ROUNDS:
        raise InputError(
            f"rounds={rounds} must be between 1 and {MAX_ROUNDS}: for a longer training, run the pipeline again, "
            "each run goes on where the last one stopped"
        )


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
