"""Names of networks in pictures."""


def literal(name: str) -> str:
    """Keep matplotlib from reading mathematics into a name, or leaving it out of a legend."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
