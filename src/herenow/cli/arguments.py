"""The arguments of a command, as people mistype them: what they most likely meant is said."""

import re
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from herenow.store.address import without_secrets

UsageError: Any = typer.BadParameter.__mro__[1]
"""What the library raises for arguments that it cannot read. It keeps its own copy of Click, under a private name."""

EXAMPLES = {
    "--database": "sqlite:///app.db",
    "-d": "sqlite:///app.db",
    "--older-than": "1h",
    "--for": "1h",
    "--user": "alice",
    "--tenant": "acme",
    "--log-level": "info",
    "--host": "127.0.0.1",
    "--port": "8080",
    "--page": "./site",
}

MEANT = {
    "status": "herenow explain USER says it of one user",
    "token": "name the user with --user",
    "watch": "herenow watch USER follows one, herenow watch follows all",
    "explain": "herenow explain USER takes one user",
}
"""What to write in the place of an argument too many, by command."""


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
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            takes = " ".join(str(each.metavar or each.name).upper() for each in self.params if each not in options)
            raise UsageError(self._plainly(error, takers, takes), ctx) from error

    def _plainly(self, error: UsageError, takers: dict[str, TyperOption], takes: str) -> str:
        """Say what to write instead, where the library says only what is wrong."""
        text = error.format_message()
        if match := re.match(r"Option '(\S+)' requires an argument", text):
            taker = takers[match[1]]
            return f"{match[1]} needs a value, as in {match[1]} {EXAMPLES.get(match[1], taker.metavar or 'VALUE')}"
        if match := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", text):
            name = self.name or ""
            rest = MEANT.get(name, f"herenow {name} takes {takes}" if takes else f"herenow {name} takes options only")
            return f"{match[1]} is too much: {rest}"
        if match := re.match(r"Invalid value for '(--\S+?)'.*valid (integer|number)", text, re.DOTALL):
            return f"{match[1]} needs a whole number, as in {match[1]} {EXAMPLES.get(match[1], '1')}"
        if match := re.match(r"Invalid value for '--page': \S+ '(.*)' (does not exist|is a file)", text):
            return f"--page needs a directory with an index.html: {match[1]} {match[2]}"
        return str(text.replace("Value error, ", ""))
