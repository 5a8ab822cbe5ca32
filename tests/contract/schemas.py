"""Checks objects of other systems against the schemas that those systems publish, as strictly as an API server does.

A plain schema lets a misspelt field pass, and says nothing of the rules in CEL that an API server runs as well.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celpy
import yaml
from jsonschema import validators
from jsonschema.exceptions import ValidationError
from openapi_schema_validator import OAS30Validator

Node = dict[str, Any]

_ALWAYS = ("apiVersion", "kind", "metadata")  # of every object; a CRD need not name them
_SERVER_ONLY = re.compile(r"\boldSelf\b|\b(url|isURL)\(")  # rules for changes, and functions that celpy lacks


def problems(contracts: Path, document: Node) -> list[str]:
    """List what an API server would refuse an object for.

    Args:
      contracts: the folder with the schemas; files of CustomResourceDefinitions are found in it by what they define.
      document: an object of a custom kind.

    Raises:
      LookupError: no file defines the kind in this version.
    """
    schema = schema_of(contracts, document["apiVersion"], document["kind"])
    return [*_invalid(schema, document), *_unknown(schema, document, "", _ALWAYS), *_broken_rules(schema, document, "")]


@functools.cache
def schema_of(contracts: Path, api_version: str, kind: str) -> Node:
    """Find the schema of a kind."""
    group, _, version = api_version.rpartition("/")
    for definition in _definitions(contracts, group, kind):
        for served in definition["versions"]:
            if served["name"] == version and served["served"]:
                schema: Node = served["schema"]["openAPIV3Schema"]
                return schema
    raise LookupError(f"no schema of {api_version} {kind} in {contracts}")


def _definitions(contracts: Path, group: str, kind: str) -> Iterator[Node]:
    for path in sorted(contracts.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if f"group: {group}\n" in text and f"kind: {kind}\n" in text:
            for document in yaml.load_all(text, yaml.CSafeLoader):
                spec = (document or {}).get("spec", {})
                if spec.get("group") == group and spec["names"]["kind"] == kind:
                    yield spec


def _go_pattern(validator: Any, pattern: str, value: Any, schema: Node) -> Iterator[ValidationError]:
    """Go takes flags anywhere, Python only in front."""
    if flags := re.match(r"\^(\(\?[ims]+\))", pattern):
        pattern = f"{flags[1]}^{pattern[flags.end() :]}"
    if isinstance(value, str) and not re.search(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


_Validator = validators.extend(OAS30Validator, {"pattern": _go_pattern})


def _invalid(schema: Node, document: Node) -> list[str]:
    return [
        f"{error.json_path.removeprefix('$')}: {error.message}" for error in _Validator(schema).iter_errors(document)
    ]


def _unknown(schema: Node, value: Any, path: str, always: tuple[str, ...] = ()) -> Iterator[str]:
    """Name the fields that the schema does not have, which an API server drops, or refuses if asked to be strict."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(schema.get("items", {}), item, f"{path}[{index}]")
    if not isinstance(value, dict):
        return
    if schema.get("x-kubernetes-embedded-resource"):
        always = _ALWAYS
    free = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties") is True
    for name, inner in value.items():
        below = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if name in always:
            continue
        if isinstance(below, dict):
            yield from _unknown(below, inner, f"{path}.{name}")
        elif not free:
            yield f"{path}.{name}: there is no such field"


def _broken_rules(schema: Node, value: Any, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if not _SERVER_ONLY.search(rule["rule"]) and not _holds(rule["rule"], value):
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        for name, inner in value.items():
            below = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(below, dict):
                yield from _broken_rules(below, inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(schema.get("items", {}), item, f"{path}[{index}]")


def _holds(rule: str, value: Any) -> bool:
    try:
        return bool(_program(rule).evaluate({"self": celpy.json_to_cel(value)}))
    except celpy.CELEvalError:  # as for a duration that is none: refused, too
        return False


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
