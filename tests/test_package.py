"""The package as it is shipped: what importing loads, and what the wheel carries."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def test_import_loads_torch_and_nothing_heavier():
    heavy = "{'timm', 'torchvision', 'lightning_fabric', 'matplotlib', 'sklearn', 'jsonargparse'}"
    code = f"import sys, timestepper; print({heavy} & set(sys.modules))"
    assert run(sys.executable, "-c", code).strip() == "set()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_carries_types_recipes_and_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "timestepper/py.typed" in names
    recipes = {path.name for path in (ROOT / "recipes").glob("*.yaml")}
    assert recipes
    assert recipes <= {Path(name).name for name in names if "timestepper/recipes/" in name}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_installs_and_runs_without_the_repository(wheel, tmp_path):
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import timestepper, torchvision;"
        "print(timestepper.__file__);"
        "timestepper.fold(timestepper.attach(torchvision.models.resnet18()))"
    )
    where = run(sys.executable, "-c", code, str(target), cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(target)
