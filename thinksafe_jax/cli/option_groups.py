"""Options of a command in groups: a dataclass whose fields are options, taken as one parameter.

@dataclass(frozen=True)
class SweepOptions:
    slots: Slots = None              # Annotated[int | None, typer.Option(...)]

@grouped
def sweep(target: Target, options: SweepOptions) -> None: ...
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Any, get_type_hints


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """The command that typer sees: each parameter that is a dataclass stands for its fields.

    Options come in the order of the parameters, and of the fields in each.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    groups = {name: hints[name] for name in parameters if is_dataclass(hints[name])}

    def command(**values: Any) -> None:
        for name, group in groups.items():
            options = {field.name: values.pop(field.name) for field in fields(group)}
            values[name] = group(**options)
        function(**values)

    shown = [
        option
        for name, parameter in parameters.items()
        for option in (
            _options(groups[name]) if name in groups else [_keyword(name, hints[name], parameter)]
        )
    ]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__module__ = function.__module__
    command.__annotations__ = {option.name: option.annotation for option in shown}
    command.__signature__ = inspect.Signature(shown)  # pyright: ignore[reportFunctionMemberAccess]
    return command


def given(group: Any) -> dict[str, Any]:
    """The options of a group that the user gave: those that are not their default."""
    defaults = {field.name: field.default for field in fields(group)}
    values = {name: getattr(group, name) for name in defaults}
    return {name: value for name, value in values.items() if value != defaults[name]}


def option_names(names: Mapping[str, Any]) -> str:
    """`--max-new-tokens, --slots`."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _options(group: Any) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    defaults = {field.name: field.default for field in fields(group)}
    return [
        _keyword(name, hints[name], Parameter(name, Parameter.KEYWORD_ONLY, default=default))
        for name, default in defaults.items()
    ]


def _keyword(name: str, annotation: Any, parameter: Parameter) -> Parameter:
    default = Parameter.empty if parameter.default is MISSING else parameter.default
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
