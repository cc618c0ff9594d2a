"""Turn the roles of docstrings, such as :func:`~timestepper.networks.create`, into code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`[~.]*")


class Roles(griffe.Extension):
    """Applied to every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Leave out the role, and what stands before the name."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub("`", obj.docstring.value)
