"""The rules for compiled pipelines find what they are for."""

# No postponed annotations here: they would hide the types from kfp.
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kfp import compiler, dsl

from tests.contract import compiled
from tests.contract.compiled import FOLDER, Compiled, parse

IMAGE = "fededge-none:1"
component = dsl.component(base_image=IMAGE, install_kfp_package=False)


@component
def single() -> str:
    return "a"


@component
def several() -> list:
    return []


@component
def named() -> NamedTuple("Names", [("choice", str), ("items", list)]):
    return "a", []


@component
def use(text: str) -> str:
    return text


@component
def read(model: dsl.Input[dsl.Model]) -> str:
    return model.path


@dsl.pipeline
def if_input(choice: str = "a") -> None:
    with dsl.If(choice == "a"):
        use(text="x")


@dsl.pipeline
def if_returned() -> None:
    with dsl.If(single().output == "a"):
        use(text="x")


@dsl.pipeline
def if_named() -> None:
    with dsl.If(named().outputs["choice"] == "a"):
        use(text="x")


@dsl.pipeline
def if_named_or_else() -> None:
    choice = named().outputs["choice"]
    with dsl.If(choice == "a"):
        use(text="x")
    with dsl.Else():
        use(text="y")


@dsl.pipeline
def if_named_in_if_input(choice: str = "a") -> None:
    other = named().outputs["choice"]
    with dsl.If(choice == "a"), dsl.If(other == "a"):
        use(text="x")


@dsl.pipeline
def loop_over_input(items: list = ["a"], other: str = "b") -> None:  # noqa: B006
    with dsl.ParallelFor(items=items) as item:
        use(text=item)
        use(text=other)


@dsl.pipeline
def loop_over_constants() -> None:
    with dsl.ParallelFor(items=["a", "b"]) as item:
        use(text=item)


@dsl.pipeline
def loop_over_returned() -> None:
    with dsl.ParallelFor(items=several().output) as item:
        use(text=use(text=item).output)


@dsl.pipeline
def loop_over_named() -> None:
    with dsl.ParallelFor(items=named().outputs["items"]) as item:
        use(text=item)


@dsl.pipeline
def loop_with_task_output() -> None:
    other = single()
    with dsl.ParallelFor(items=several().output) as item:
        use(text=item)
        use(text=other.output)


@dsl.pipeline
def nested_loop_with_task_output(items: list = ["a"]) -> None:  # noqa: B006
    other = single()
    with dsl.ParallelFor(items=items) as item:
        use(text=item)
        with dsl.If(other.output == "a"):
            use(text="x")


@dsl.pipeline
def takes_artifact(model: dsl.Input[dsl.Model]) -> None:
    read(model=model)


@dsl.pipeline
def cached() -> None:
    use(text="x")


Compile = Callable[[Any], Compiled]


@pytest.fixture
def compile_(tmp_path: Path) -> Compile:
    def compile_(pipeline: Any) -> Compiled:
        path = tmp_path / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return parse(path.read_text())

    return compile_


@pytest.mark.parametrize("pipeline", [if_input, if_returned], ids=lambda pipeline: pipeline.name)
def test_good_conditions_pass(compile_: Compile, pipeline: Any) -> None:
    document = compile_(pipeline)
    assert any("triggerPolicy" in task for _, task in document.tasks())
    assert compiled.conditions(document) == []


@pytest.mark.parametrize("pipeline", [if_named, if_named_or_else, if_named_in_if_input], ids=lambda p: p.name)
def test_a_condition_on_a_named_output_is_found(compile_: Compile, pipeline: Any) -> None:
    wrong = compiled.conditions(compile_(pipeline))
    assert wrong
    assert all(line.endswith("depends on named choice") for line in wrong)


@pytest.mark.parametrize("pipeline", [loop_over_input, loop_over_constants, loop_over_returned], ids=lambda p: p.name)
def test_good_loops_pass(compile_: Compile, pipeline: Any) -> None:
    document = compile_(pipeline)
    assert any("parameterIterator" in task for _, task in document.tasks())
    assert compiled.loops(document) == []


def test_a_loop_over_a_named_output_is_found(compile_: Compile) -> None:
    assert compiled.loops(compile_(loop_over_named)) == ["root/for-loop-1 takes named items"]


@pytest.mark.parametrize("pipeline", [loop_with_task_output, nested_loop_with_task_output], ids=lambda p: p.name)
def test_another_output_in_a_loop_is_found(compile_: Compile, pipeline: Any) -> None:
    (wrong,) = compiled.loops(compile_(pipeline))
    assert wrong.endswith("takes single Output")


def test_a_pipeline_that_takes_an_artifact_is_found(compile_: Compile) -> None:
    assert compiled.artifact_inputs(compile_(takes_artifact)) == ["root takes the artifact model"]


def test_a_task_that_is_cached_is_found(compile_: Compile) -> None:
    assert compiled.caching(compile_(cached)) == ["root/use is cached: {'enableCache': True}"]


def _round(replace: str, by: str, *, count: int = -1) -> Compiled:
    text = (FOLDER / "fl_round.yaml").read_text()
    assert replace in text
    return parse(text.replace(replace, by, count))


def _mutations() -> Iterator[Any]:
    for name, rule, replace, by in (
        ("caching left to the compiler", compiled.caching, "cachingOptions: {}", "retryPolicy: {}"),
        ("cached", compiled.caching, "cachingOptions: {}", "cachingOptions: {enableCache: true}"),
        ("root", compiled.users, "runAsNonRoot: true", "runAsNonRoot: false"),
        ("another user", compiled.users, "runAsUser: '1000'", "runAsUser: '0'"),
        ("no user", compiled.users, "securityContext:", "podMetadata:"),
        ("no deadline", compiled.deadlines, "activeDeadlineSeconds: '3600'", "activeDeadlineSeconds: '0'"),
        ("deadline left out", compiled.deadlines, "activeDeadlineSeconds: '90000'\n", "imagePullPolicy: Always\n"),
        ("required", compiled.store_settings, "optional: true", "optional: false"),
        ("required by default", compiled.store_settings, "            optional: true\n", ""),
        ("another secret", compiled.store_settings, "secretName: fededge\n", "secretName: other\n"),
        ("no settings", compiled.store_settings, "configMapAsEnv:", "configMapAsVolume:"),
    ):
        yield pytest.param(rule, replace, by, id=name)


@pytest.mark.parametrize(("rule", "replace", "by"), _mutations())
def test_one_task_that_breaks_a_rule_is_found(rule: Callable[[Compiled], list[str]], replace: str, by: str) -> None:
    assert len(rule(_round(replace, by, count=1))) == 1


@pytest.mark.parametrize(
    "rule", [compiled.users, compiled.deadlines, compiled.store_settings], ids=lambda r: r.__name__
)
def test_an_executor_that_kubernetes_is_told_nothing_about_is_found(rule: Callable[[Compiled], list[str]]) -> None:
    document = _round("        exec-train-clients:\n          activeDead", "        exec-other:\n          activeDead")
    assert rule(document)
    assert all(line.startswith("exec-train-clients ") for line in rule(document))
