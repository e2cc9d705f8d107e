"""The documents are true: commands, keys, files and links exist, the example runs, the picture fits the tables."""

import importlib
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
import yaml

import dual_encoder
from dual_encoder.config import key_paths

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md",
         *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "benchmarks|configs|data_prep|docs|dual_encoder|locks|tests|tpu"
SOURCES = [*PAGES, ROOT / "Makefile", *sorted((ROOT / "configs").glob("*.py"))]


def commands(path):
    """Lines that call Python, continuation lines joined."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    return re.findall(r"(?:python|\$\(RUN\)) ((?:-m |main\.py)[^\n`#]*)", text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_every_configuration_and_override_exists(path):
    for command in commands(path):
        if not command.startswith("main.py") or "--config=" not in command:
            continue
        file, variant = re.search(r"--config=configs/(\w+)\.py(?::(\w+))?", command).groups()
        config = importlib.import_module(f"configs.{file}").get_config(*([variant] if variant else []))
        for key in re.findall(r"--config\.([\w.]+)=", command):
            assert key in key_paths(config.to_dict()), f"{path.name}: {command}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_every_module_command_exists(path):
    for command in commands(path):
        if command.startswith("-m "):
            module = command.split()[1]
            if module not in ("pip", "venv", "pytest", "ruff", "mypy"):
                found = ROOT / module.replace(".", "/")
                assert found.with_suffix(".py").exists() or (found / "__main__.py").exists(), command
            if module == "data_prep" and not command.split()[2].startswith("{"):
                assert command.split()[2] in ("sample", "build", "inspect", "stats", "verify", "overlap"), command


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_every_link_and_picture_exists(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} points to {target}"


def test_the_documents_name_every_importer():
    text = (ROOT / "README.md").read_text()
    for module in (ROOT / "data_prep" / "importers").glob("[a-z]*.py"):
        assert f"`{module.stem}`" in text, module.stem


def missing_files(text):
    """Yields the files of the project that a text names and that do not exist; NAME, < and * stand for many names."""
    for name in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*<>-]*", text):
        name = name.rstrip(".").rstrip("-")
        if not re.search(r"NAME|[<*]", name) and not (ROOT / name).exists():
            yield name
    known = [f"/{path.relative_to(ROOT)}" for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.*")]
    known += [f"/{path.name}" for path in ROOT.iterdir()]
    for name in re.findall(r"`([\w/.-]+\.(?:py|md|toml|cff|sh))`", text):
        end = "/" + name.removeprefix("./")
        if not re.search(r"NAME|FILE", name) and not any(path.endswith(end) for path in known):
            yield name


def test_a_file_that_is_missing_is_found():
    text = "tests/none.py, `losses/trainer.py`, `test_docs.py`, `losses/NAME.py`, data/none, docs/data.md."
    assert list(missing_files(text)) == ["tests/none.py", "losses/trainer.py"]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_every_file_that_a_page_names_exists(path):
    assert not list(missing_files(path.read_text()))


def test_every_file_that_the_code_names_exists():
    wrong = [f"{path.relative_to(ROOT)}: {name}" for folder in ("dual_encoder", "data_prep", "configs", "benchmarks")
             for path in sorted((ROOT / folder).rglob("*.py")) for name in missing_files(path.read_text())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_every_module_that_a_page_names_exists(path):
    for name in re.findall(r"`((?:dual_encoder|data_prep)\.[\w.]+)`", path.read_text()):
        if name.split(".")[1].startswith("_"):
            continue
        found = ROOT / "/".join(name.split(".")[:2])
        assert found.is_dir() or found.with_suffix(".py").exists(), f"{path.name}: {name}"


def test_the_changelog_lists_every_module_that_moved():
    text = (ROOT / "CHANGELOG.md").read_text()
    for old, new in dual_encoder._MOVED.items():
        assert f"| `dual_encoder.{old}` | `dual_encoder.{new}` |" in text, old
        assert (ROOT / "dual_encoder" / new.replace(".", "/")).with_suffix(".py").exists(), new


def test_the_changelog_and_the_citation_have_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dual_encoder.__version__
    assert {"cff-version", "message", "title", "authors", "license", "references"} <= set(citation)
    assert f'version="{dual_encoder.__version__}"' in (ROOT / "setup.py").read_text()
    assert f"## [{dual_encoder.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_rooms_are_drawn_from_the_tables():
    draw = runpy.run_path(str(ROOT / "docs" / "draw_rooms.py"))
    page = draw["PAGE"].read_text()
    assert draw["drawn"](page) == page, "run python docs/draw_rooms.py"


def test_the_page_of_the_configuration_is_that_of_the_code():
    write = runpy.run_path(str(ROOT / "docs" / "write_configuration.py"))
    assert write["page"]() == write["PAGE"].read_text(), "run python docs/write_configuration.py"
    for line in write["page"]().splitlines():
        if line.startswith("| `") and not re.match(r"\| `(task|.*\.name|.*\.family)`", line):
            assert line.split(" | ")[2].strip(), f"a key without a text: {line}"


def test_an_arrow_that_follows_from_others_is_not_drawn():
    shortest = runpy.run_path(str(ROOT / "docs" / "draw_rooms.py"))["shortest"]
    assert shortest({"c": set(), "b": {"c"}, "a": {"b", "c"}}) == {"c": [], "b": ["c"], "a": ["b"]}


@pytest.mark.slow
def test_the_example_in_python_runs():
    example, = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, text=True, capture_output=True, timeout=300,
                          env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert re.match(r"loss \d+\.\d{3} accuracy_s1_to_s2 ", done.stdout), done.stdout
