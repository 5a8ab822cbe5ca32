"""Works out where a compiled pipeline's pods go, as the backend does, for given results of its components.

    root inputs ─► task ─► nested pipeline ─► loop over a plan ─► nested pipeline ─► task ─► executor
                                                                 (its inputs:       (its inputs:
                                                                  the claim)         the resources)

The claim is an input of the pipeline that the task is in, the resources are inputs of the task itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.contract.compiled import Compiled, Node

Values = dict[str, Any]
Results = Callable[[str, Values], Values]

_FIELD = re.compile(r'parseJson\(string_value\)\["(\w+)"\]')
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([\w-]+)'\]\}\}")
_QUANTITIES = {
    "resourceCpuRequest": "cpu_request",
    "resourceCpuLimit": "cpu_limit",
    "resourceMemoryRequest": "memory_request",
    "resourceMemoryLimit": "memory_limit",
}


@dataclass(frozen=True)
class Pod:
    """Where one task runs.

    Attributes:
      function: the component's.
      inputs: of the task.
      claims: by mount path.
      resources: named as in `Placement`.
    """

    function: str
    inputs: Values
    claims: dict[str, str]
    resources: dict[str, str]


@dataclass
class _Run:
    pipeline: Compiled
    results: Results
    pods: list[Pod] = field(default_factory=list)


def pods(pipeline: Compiled, arguments: Mapping[str, Any], results: Results) -> list[Pod]:
    """List the pods of a run, in an order in which they can be.

    Args:
      pipeline: the YAML.
      arguments: inputs that differ from their defaults.
      results: given a component's function and its inputs, returns its outputs.
    """
    run = _Run(pipeline, results)
    _dag(run, pipeline.spec["root"], dict(arguments))
    return run.pods


def fields_read(pipeline: Compiled) -> set[str]:
    """Name the fields of a loop's items that the pipeline reads."""
    values = [value for _, task in pipeline.tasks() for value in task["inputs"]["parameters"].values()]
    return {_FIELD.fullmatch(value["parameterExpressionSelector"])[1] for value in values if _selects(value)}  # type: ignore[index]


def _selects(value: Node) -> bool:
    return "parameterExpressionSelector" in value


def _dag(run: _Run, definition: Node, given: Values) -> Values:
    inputs = {**_defaults(definition), **given}
    tasks, done = dict(definition["dag"]["tasks"]), dict[str, Values]()
    while tasks:
        name = next(name for name, task in tasks.items() if done.keys() >= set(task.get("dependentTasks", [])))
        task = tasks.pop(name)
        values = {key: _value(value, inputs, done) for key, value in task["inputs"]["parameters"].items()}
        done[name] = _task(run, task, values, inputs)
    outputs = definition["dag"].get("outputs", {}).get("parameters", {})
    chosen = {key: output["valueFromParameter"] for key, output in outputs.items()}
    return {key: done[output["producerSubtask"]][output["outputParameterKey"]] for key, output in chosen.items()}


def _defaults(definition: Node) -> Values:
    parameters = definition.get("inputDefinitions", {}).get("parameters", {})
    return {name: parameter["defaultValue"] for name, parameter in parameters.items() if "defaultValue" in parameter}


def _value(value: Node, inputs: Values, done: dict[str, Values]) -> Any:
    if output := value.get("taskOutputParameter"):
        found = done[output["producerTask"]][output["outputParameterKey"]]
    elif "runtimeValue" in value:
        found = value["runtimeValue"]["constant"]
    else:
        found = inputs[value["componentInputParameter"]]
    if _selects(value):
        match = _FIELD.fullmatch(value["parameterExpressionSelector"])
        assert match
        return found[match[1]]
    return found


def _task(run: _Run, task: Node, values: Values, inputs: Values) -> Values:
    component = run.pipeline.spec["components"][task["componentRef"]["name"]]
    if iterator := task.get("parameterIterator"):
        items = values[iterator["items"]["inputParameter"]]
        rounds = [_component(run, component, {**values, iterator["itemInput"]: item}, inputs) for item in items]
        return {name: [done[name] for done in rounds] for name in component["outputDefinitions"]["parameters"]}
    return _component(run, component, values, inputs)


def _component(run: _Run, component: Node, values: Values, inputs: Values) -> Values:
    if "dag" in component:
        return _dag(run, component, values)
    label = component["executorLabel"]
    container = run.pipeline.executors[label]
    claims = {
        mount["mountPath"]: _claim(mount["pvcNameParameter"], inputs)
        for mount in run.pipeline.configs[label].get("pvcMount", [])
    }
    resources = {
        _QUANTITIES[name]: _PLACEHOLDER.sub(lambda match: values[match[1]], quantity)
        for name, quantity in container.get("resources", {}).items()
        if name in _QUANTITIES  # kfp writes those that are fixed as numbers, too, for old backends
    }
    run.pods.append(Pod(function(container), values, claims, resources))
    return run.results(function(container), values)


def _claim(parameter: Node, inputs: Values) -> str:
    name = _value(parameter, inputs, {})
    assert isinstance(name, str)
    return name


def function(container: Node) -> str:
    """Return the name of a component's function."""
    arguments: list[str] = container["args"]
    return arguments[arguments.index("--function_to_execute") + 1]
