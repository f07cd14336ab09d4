"""The arguments of a command, as people mistype them: what they most likely meant is said."""

from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from herenow.store.address import without_secrets


class Command(TyperCommand):
    """A command whose options do not take each other for their values, and that shows no password of an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            typer.BadParameter: they cannot be read; the sentence says what to write.
        """
        options = [each for each in self.params if isinstance(each, TyperOption)]
        names = {name for each in options for name in each.opts}
        takers = {name: each for each in options if not each.is_flag for name in each.opts}
        given = args[: args.index("--")] if "--" in args else args
        for name, value in pairwise(["", *given]):
            if name in takers and value in names:  # ``token --user --api-key`` would make a token of that name
                example = f"{name} {takers[name].metavar or 'VALUE'}"
                raise typer.BadParameter(f"{name} needs a value, as in {example}; {value} is an option", ctx)
            if name not in takers and len(options) == len(self.params) and "://" in value and value[0] != "-":
                raise typer.BadParameter(f"write --database before {without_secrets(value)}", ctx)
        return super().parse_args(ctx, args)
