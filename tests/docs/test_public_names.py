"""Every public name has an entry in the API, and every entry is something."""

import pkgutil
import re
from importlib import import_module

import pytest
from pages import ROOT

import timestepper

PACKAGES = ["timestepper"] + [
    f"timestepper.{module.name}"
    for module in pkgutil.iter_modules(timestepper.__path__)
    if module.ispkg
]


@pytest.fixture(scope="module")
def entries():
    found = [
        entry
        for page in (ROOT / "docs" / "api").glob("*.md")
        for entry in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(found) == len(set(found))
    named = {}
    for entry in found:
        module, _, attribute = entry.rpartition(".")
        named[entry] = getattr(import_module(module), attribute)
    return named


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_in_the_api(package, entries):
    module = import_module(package)
    documented = list(map(id, entries.values()))
    public = [name for name in getattr(module, "__all__", ()) if name != "errors"]
    missing = [name for name in public if id(getattr(module, name)) not in documented]
    assert missing == []


def test_all_errors_are_in_the_api(entries):
    errors = [
        f"timestepper.errors.{name}"
        for name, value in vars(timestepper.errors).items()
        if isinstance(value, type) and issubclass(value, timestepper.errors.TimestepperError)
    ]
    assert len(errors) > 10
    assert set(errors) <= set(entries)
