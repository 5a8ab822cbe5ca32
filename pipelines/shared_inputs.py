"""Lends a pipeline the inputs of another: kfp reads them from the function's signature and docstring."""

import inspect
from collections.abc import Callable
from typing import Any

_ARGS, _RETURNS = "\n\nArgs:\n", "\n\nReturns:\n"


def with_inputs_of(pipeline: Any, **defaults: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a pipeline the inputs of another before its own.

    Args:
      pipeline: whose inputs these are, with their descriptions.
      defaults: of inputs that have another one here.

    Returns:
      A decorator. The function gets the other pipeline's inputs as a dictionary, and then its own.
    """
    lender = inspect.signature(pipeline.pipeline_func).parameters.values()
    lent = [one.replace(default=defaults.get(one.name, one.default)) for one in lender]

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(body)
        own = list(signature.parameters.values())[1:]

        def composed(*values: Any) -> Any:
            names = [one.name for one in lent]
            return body(dict(zip(names, values, strict=False)), *values[len(names) :])

        composed.__name__ = body.__name__
        composed.__doc__ = _docstring(pipeline.pipeline_func, body)
        composed.__signature__ = signature.replace(parameters=[*lent, *own])  # type: ignore[attr-defined]
        return composed

    return decorate


def _docstring(lender: Callable[..., Any], body: Callable[..., Any]) -> str:
    theirs = (inspect.getdoc(lender) or "").partition(_ARGS)[2].partition(_RETURNS)
    summary, _, own = (inspect.getdoc(body) or "").partition(_ARGS)
    return f"{summary}{_ARGS}{theirs[0]}\n{own}{theirs[1]}{theirs[2]}"
