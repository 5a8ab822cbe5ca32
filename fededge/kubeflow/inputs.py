"""The inputs of a compiled pipeline: which there are, and what a user gave for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fededge.errors import InputError
from fededge.settings import ComparisonSettings, Deployment, FanOut, Placement, RoundSettings
from fededge.workloads import BUILT_IN, import_path, load_workload, own_defaults

# What the steps read their inputs with. A pipeline takes either all that one of these has, or not it.
_SETTINGS = (RoundSettings, Placement, FanOut, ComparisonSettings, Deployment)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool, "STRING": str, "LIST": list, "STRUCT": dict,
}  # fmt: skip


def definitions(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the inputs of a pipeline by name, as its YAML declares them."""
    root: Mapping[str, Any] = document["root"].get("inputDefinitions", {}).get("parameters", {})
    return root


def parse(document: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Read inputs that were typed as NAME=VALUE.

    Raises:
      InputError: one is of another form, or the pipeline has no such input.
    """
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--input {text}: write it as NAME=VALUE")
        given[name] = value if _kind(document, name) == "STRING" else _from_json(name, value)
    return given


def complete(document: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check inputs, and add what suits the workload where nothing was given.

    Raises:
      InputError: the pipeline has no such input, or it takes another value.
    """
    for name, value in given.items():
        kind = _kind(document, name)
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise InputError(f"{name}={value!r} is no {kind.lower().replace('_', ' ')}")
    known = definitions(document)
    values = dict(given)
    if "workload" in known:
        workload = str(given.get("workload", known["workload"].get("defaultValue", "")))
        import_path(workload)
        suited = own_defaults(load_workload(workload)) if workload in BUILT_IN else {}
        values = {**{name: value for name, value in suited.items() if name in known}, **given}
    for settings in _SETTINGS:
        if settings.model_fields.keys() <= known.keys():
            settings.parse(**{name: value for name, value in values.items() if name in settings.model_fields})
    return values


def _kind(document: Mapping[str, Any], name: str) -> str:
    known = definitions(document)
    if name not in known:
        raise InputError(f"the pipeline has no input {name}; it has {', '.join(sorted(known))}")
    return str(known[name]["parameterType"])


def _from_json(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise InputError(f"{name}={value!r} is no number, true or false, or JSON") from error
