"""Reads compiled pipelines, and the rules that they keep to. A rule returns what is wrong, a line each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Node = dict[str, Any]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "pipelines" / "compiled"
LOOP_PIPELINES = ("fl_round", "fl_training")
JOB_PIPELINES = ("fl_round_job", "fl_training_job")
ROUND_PIPELINES = (*LOOP_PIPELINES, *JOB_PIPELINES)
PIPELINES = (*ROUND_PIPELINES, "fl_comparison", "fl_deploy")
RETURNED = "Output"  # what kfp calls a task's single unnamed return value

_GROUP = re.compile(r"comp-(for-loop|condition|condition-branches)-[0-9-]+")
_IN_CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\]")


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: its two YAML documents."""

    spec: Node
    platform: Node

    @property
    def executors(self) -> dict[str, Node]:
        return {label: executor["container"] for label, executor in self.spec["deploymentSpec"]["executors"].items()}

    @property
    def configs(self) -> dict[str, Node]:
        """What Kubernetes is told about each executor."""
        configs: dict[str, Node] = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        return configs

    @property
    def dags(self) -> dict[str, Node]:
        """All that is made of tasks: the pipeline, nested ones, and groups such as the body of a loop."""
        nested = {name: part for name, part in self.spec["components"].items() if "dag" in part}
        return {"root": self.spec["root"], **nested}

    def tasks(self) -> Iterator[tuple[str, Node]]:
        for dag, definition in self.dags.items():
            for name, task in definition["dag"]["tasks"].items():
                yield f"{dag}/{name}", task


def parse(text: str) -> Compiled:
    spec, *platform = yaml.load_all(text, yaml.CSafeLoader)
    return Compiled(spec, *(platform or [{}]))


def is_group(component: str) -> bool:
    return _GROUP.fullmatch(component) is not None


class Origin(NamedTuple):
    """Where a value comes from: a task's output, or else one of the two below."""

    task: str
    output: str


INPUT = Origin("", "input")
ITEM = Origin("", "loop item")


def origins(pipeline: Compiled) -> Iterator[tuple[str, Node, dict[str, Origin]]]:
    """Yield each task with the origin of each of its inputs, through the groups that it is in."""
    yield from _origins(pipeline, "root", pipeline.spec["root"], {})


def _origins(
    pipeline: Compiled, path: str, definition: Node, group: dict[str, Origin]
) -> Iterator[tuple[str, Node, dict[str, Origin]]]:
    for name, task in definition["dag"]["tasks"].items():
        found = {key: _origin(value, group) for key, value in _parameters(task).items()}
        yield f"{path}/{name}", task, found
        component = task["componentRef"]["name"]
        inner = pipeline.spec["components"][component]
        if "dag" in inner:
            item = task.get("parameterIterator", {}).get("itemInput")
            carried = {**found, **({item: ITEM} if item else {})} if is_group(component) else {}
            yield from _origins(pipeline, f"{path}/{name}", inner, carried)


def _origin(value: Node, group: dict[str, Origin]) -> Origin:
    if output := value.get("taskOutputParameter"):
        return Origin(output["producerTask"], output["outputParameterKey"])
    return group.get(value.get("componentInputParameter", ""), INPUT)


def _parameters(task: Node) -> dict[str, Node]:
    found: dict[str, Node] = task.get("inputs", {}).get("parameters", {})
    return found


def caching(pipeline: Compiled) -> list[str]:
    """Nothing is cached: a second tick of a recurring run would do nothing."""
    wrong = []
    for path, task in pipeline.tasks():
        options = task.get("cachingOptions")
        if options is None and not is_group(task["componentRef"]["name"]):
            wrong.append(f"{path} says nothing about caching")
        if options:
            wrong.append(f"{path} is cached: {options}")
    return wrong


def artifact_inputs(pipeline: Compiled) -> list[str]:
    """No pipeline takes an artifact: neither the UI nor the local runner can supply one."""
    return [
        f"{name} takes the artifact {artifact}"
        for name, definition in pipeline.dags.items()
        for artifact in definition.get("inputDefinitions", {}).get("artifacts", {})
    ]


def conditions(pipeline: Compiled) -> list[str]:
    """Conditions look at pipeline inputs and single return values: on others the local runner is silently wrong."""
    wrong = []
    for path, task, found in origins(pipeline):
        condition = task.get("triggerPolicy", {}).get("condition", "")
        for name in _IN_CONDITION.findall(condition):
            if found[name] != INPUT and found[name].output != RETURNED:
                wrong.append(f"{path} depends on {found[name].task} {found[name].output}")
    return wrong


def loops(pipeline: Compiled) -> list[str]:
    """Into a loop go its items, from a single return value, and pipeline inputs.

    kfp's local runner puts the loop item in the place of any other task's output.
    """
    wrong = []
    for path, task, found in origins(pipeline):
        if "parameterIterator" not in task:
            continue
        items = task["parameterIterator"]["items"].get("inputParameter")
        for name, origin in found.items():
            if origin != INPUT and not (name == items and origin.output == RETURNED):
                wrong.append(f"{path} takes {origin.task} {origin.output}")
    return wrong


def users(pipeline: Compiled) -> list[str]:
    """Every task runs as the user that the images make."""
    wanted = {"runAsNonRoot": True, "runAsUser": "1000"}
    return [
        f"{label} has the security context {config.get('securityContext')}"
        for label, config in _all_configs(pipeline)
        if config.get("securityContext") != wanted
    ]


def deadlines(pipeline: Compiled) -> list[str]:
    """Kubernetes ends every task some day."""
    return [
        f"{label} may run forever"
        for label, config in _all_configs(pipeline)
        if int(config.get("activeDeadlineSeconds", 0)) <= 0
    ]


def store_settings(pipeline: Compiled) -> list[str]:
    """The store's settings, credentials and authorities come from where they may be missing."""
    sources = {
        "configMapAsEnv": {"configMapName": "fededge"},
        "secretAsEnv": {"secretName": "fededge"},
        "secretAsVolume": {"secretName": "fededge-ca"},
    }
    wrong = []
    for label, config in _all_configs(pipeline):
        for kind, name in sources.items():
            found = config.get(kind, [])
            if not any(name.items() <= source.items() for source in found):
                wrong.append(f"{label} lacks {kind} {name}")
            wrong += [
                f"{label} cannot do without {kind} {name}" for source in found if source.get("optional") is not True
            ]
    return wrong


def _all_configs(pipeline: Compiled) -> list[tuple[str, Node]]:
    return [(label, pipeline.configs.get(label, {})) for label in pipeline.executors]
