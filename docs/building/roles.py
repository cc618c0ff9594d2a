"""Turn the roles of docstrings, such as :func:`create`, into code, linked where the site has it."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Applied to every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Write the docstring anew."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(_code, obj.docstring.value)


def _code(found: re.Match[str]) -> str:
    name = found[1]
    shown = name.removeprefix(".") if name.startswith("timestepper.") else name
    return f"`{shown}`"
