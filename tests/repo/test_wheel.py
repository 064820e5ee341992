"""The wheel holds the package with its pages, registries and samples, and nothing else."""

import zipfile
from fnmatch import fnmatch

import pytest


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(root))
    path = next(builder.build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]))
    with zipfile.ZipFile(path) as archive:
        yield {name: archive.read(name) for name in archive.namelist()}


LEFT_OUT = ("weights/*.py", "weights/mini-next/*", "weights/mini/*.jsonl", "weights/mini/*.png", "weights/mini/f*.json")


def test_wheel_holds_every_module_and_asset(wheel, root, files):
    wanted = set()
    for name in files:
        if any(fnmatch(name, pattern) for pattern in LEFT_OUT):
            continue
        if name.startswith("finetune/"):
            wanted.add(name)
        elif name.startswith(("pipelines/", "weights/", "data/")):
            wanted.add(f"finetune/_assets/{name}")
    held = {name for name in wheel if ".dist-info/" not in name}
    assert held == wanted
    assert {
        "finetune/_assets/pipelines/spam_classifier.py",
        "finetune/_assets/weights/registry.toml",
        "finetune/_assets/data/registry.toml",
        "finetune/report/template.html.jinja",
        "finetune/py.typed",
    } <= held


def test_wheel_installs_one_command_and_one_package(wheel):
    entry_points = next(text for name, text in wheel.items() if fnmatch(name, "*.dist-info/entry_points.txt"))
    assert entry_points.decode().split() == ["[console_scripts]", "finetune", "=", "finetune.cli:main"]
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in wheel} == {
        "finetune",
        "gpt2_finetune",
    }
    assert any(fnmatch(name, "*.dist-info/licenses/LICENSE") for name in wheel)


def test_version_is_the_packages_own(wheel):
    import finetune

    metadata = next(text for name, text in wheel.items() if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {finetune.__version__}\n" in metadata.decode()


def test_pins_cover_every_requirement(root):
    """constraints.txt pins what pyproject.toml asks for, exactly and from no special place."""
    import re
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    wrong = [str(one) for one in asked if pins.get(canonicalize_name(one.name)) not in one.specifier]
    assert not wrong and not [name for name in pins if name.startswith("nvidia")], wrong
