"""What the documentation tells people to type must exist."""

import importlib
import pathlib
import re

import pytest

from dual_encoder.config import key_paths

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
            if module not in ("pip", "venv", "pytest", "ruff"):
                found = ROOT / module.replace(".", "/")
                assert found.with_suffix(".py").exists() or (found / "__main__.py").exists(), command
            if module == "data_prep" and not command.split()[2].startswith("{"):
                assert command.split()[2] in ("sample", "build", "inspect", "stats", "verify"), command


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_every_link_and_picture_exists(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} points to {target}"


def test_the_documents_name_every_importer():
    text = (ROOT / "README.md").read_text()
    for module in (ROOT / "data_prep" / "importers").glob("[a-z]*.py"):
        assert f"`{module.stem}`" in text, module.stem
