"""Command classes of the command line.

They raise an error if a flag with a single value is given twice, and show no types in the help where types say nothing.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from gpubench.core.errors import InputError


class Command(TyperCommand):
    """A command, such as `gpubench score`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; raise `InputError` if a flag that takes one value is given more than once."""
        if not ctx.resilient_parsing:
            given = list(args)
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for parameter in dict.fromkeys(order):
                if order.count(parameter) > 1 and _takes_one_value(parameter):
                    raise InputError(_twice(parameter, given))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, without a type in the help where it says nothing."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, such as `gpubench datasets`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, without a type in the help where it says nothing."""
        return _without_types(super().get_params(ctx))


def _takes_one_value(parameter: Any) -> bool:
    """Whether giving a parameter again would replace its value; not so for switches such as --report."""
    if parameter.param_type_name != "option" or parameter.multiple:
        return False
    return not parameter.is_flag or bool(parameter.secondary_opts)


def _twice(parameter: Any, args: list[str]) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    flag = max(names, key=lambda name: (any(text.partition("=")[0] == name for text in args), len(name)))
    return f"{flag} is given more than once, and takes one value; leave out all but one"


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if parameter.param_type_name == "argument" or getattr(parameter, "is_flag", False):
            parameter.display_type_rich = lambda **_: None
    return parameters
