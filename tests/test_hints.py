"""Every hint of a message can be followed: its flags and keys exist in each command that can print it.

The messages are all texts of the source with a flag, a key of a configuration or a command in them.
"""

import argparse
import ast
import importlib
import pathlib
import re
from typing import Any

import pytest

import data_prep.__main__ as data_prep_main
from dual_encoder import train
from dual_encoder.config import key_paths, parse
from dual_encoder.tasks.build import AnyConfig

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
TRAINED = ("pretrain", "finetune", "classify")
ALL = (*TRAINED, "evaluate", "probe")

# Where a message stands -> the configuration files with which it can appear, if these are not all.
APPEARS_WITH = {
    "dual_encoder/command_line": TRAINED,  # an example
    "dual_encoder/data/batches.py": TRAINED,
    "dual_encoder/data/config.py": TRAINED,
    "dual_encoder/data/order.py": TRAINED,
    "dual_encoder/data/manifest.py:load_sensors": TRAINED,
    "dual_encoder/experiment": TRAINED,
    "dual_encoder/losses": ("pretrain",),
    "dual_encoder/models": TRAINED,
    "dual_encoder/plan": TRAINED,
    "dual_encoder/plan/remedies.py": ("pretrain",),
    "dual_encoder/tasks": TRAINED,
    "dual_encoder/inference": ("finetune",),
    "dual_encoder/predict": ("finetune",),
    "dual_encoder/tasks/bands.py": ("finetune", "classify", "probe"),
    "dual_encoder/tasks/build.py:EvaluateConfig": ("evaluate",),
    "dual_encoder/tasks/build.py:build_evaluation": ("evaluate",),
    "dual_encoder/tasks/build.py:_check_labels": ("evaluate",),
    "dual_encoder/tasks/build.py:_to_evaluate": ("evaluate",),
    "dual_encoder/tasks/checks.py:check_signal": ("pretrain",),
    "dual_encoder/tasks/classify.py": ("classify",),
    "dual_encoder/tasks/pretrain.py": ("pretrain",),
    "dual_encoder/tasks/probe.py": ("probe",),
    "dual_encoder/tasks/probe.py:KnnConfig": ("pretrain",),
    "dual_encoder/tasks/segment.py": ("finetune",),
    "dual_encoder/tasks/sources.py:open_knn": ("pretrain",),
    "dual_encoder/training/hooks.py": TRAINED,
    "dual_encoder/training/loop.py": TRAINED,
    "dual_encoder/training/probe.py": ("probe",),
    "dual_encoder/training/selection.py": TRAINED,
    "dual_encoder/workdir/folder.py": TRAINED,
    "dual_encoder/workdir/sinks.py": TRAINED,
    "dual_encoder/export": TRAINED,
    "dual_encoder/runtime/limits.py": TRAINED,
    "data_prep": TRAINED,
}
# Folders with commands of their own; the flags of their parsers are read from the source.
COMMANDS = ("dual_encoder/export", "dual_encoder/plan", "dual_encoder/experiment", "dual_encoder/report",
            "dual_encoder/reproduce.py", "dual_encoder/calibrate.py", "dual_encoder/import_weights", "benchmarks")
SCENES = tuple(f"dual_encoder/{room}" for room in ("predict", "sketch_map", "embed", "search", "inference"))
NO_KEYS = ("config.json", "config.py", "config.task")


def messages():
    """Yields (path, name of the outermost function or class, text) of each hint; values are '{}' in the text."""
    for folder in ("dual_encoder", "data_prep"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for top in ast.parse(path.read_text()).body:
                name = getattr(top, "name", "")
                for text in texts(top):
                    if " " in text and re.search(r"--[a-z]|config\.[a-z]|`python |python -m |data_prep [a-z]", text):
                        yield path.relative_to(ROOT).as_posix(), name, text


def texts(top):
    """Yields the texts of a statement, but no docstrings."""
    documents, parts = set(), set()
    for node in ast.walk(top):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            documents.add(node.body[0].value)
        if isinstance(node, ast.JoinedStr):
            parts |= set(node.values)
    if isinstance(top, ast.Expr):  # of the file
        documents.add(top.value)
    for node in ast.walk(top):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents | parts:
            yield node.value


def files_of(path: str, name: str) -> tuple[str, ...]:
    """The configuration files with which a message can appear: of the longest entry that fits."""
    fits = [key for key in APPEARS_WITH if f"{path}:{name}" == key or path == key or path.startswith(f"{key}/")]
    return APPEARS_WITH[max(fits, key=len)] if fits else ALL


def values_of(file: str) -> dict[str, Any]:
    return importlib.import_module(f"configs.{file}").get_config().to_dict()


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All flags of a parser and of its commands."""
    found: set[str] = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found |= options(sub)
    return found


def commands() -> dict[str, argparse.ArgumentParser]:
    (sub,) = (action for action in data_prep_main._parser()._actions
              if isinstance(action, argparse._SubParsersAction))
    return dict(sub.choices)


def declared(folder: str) -> set[str]:
    """The flags that the files of a folder give to argparse."""
    paths = [ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py"))
    return {match for path in paths for match in re.findall(r'add(?:_argument)?\(\s*"(--[a-z0-9_-]+)"',
                                                                            path.read_text())}


def known_flags(path: str, name: str) -> set[str]:
    """The flags of the commands that can print a message."""
    path = {"build_without_weights": "dual_encoder/plan"}.get(name, path)  # only the planner calls it
    known = {f"--{name}" for name in train._flags(["main.py"])} | options(data_prep_main._parser())
    known |= {"--config", "--workdir"}
    for folder in COMMANDS:
        if path == folder or path.startswith(f"{folder}/"):
            known |= declared(folder)
    if path.startswith("dual_encoder/weights/"):  # only this command calls it
        known |= declared("dual_encoder/import_weights") | declared("dual_encoder/experiment")
    if path.startswith(SCENES):  # these commands read scenes by the same code
        known |= set().union(*map(declared, SCENES))
    return {flag.replace("_", "-") for flag in known}


@pytest.fixture(scope="module")
def found():
    return list(messages())


def test_every_flag_of_a_message_exists(found):
    wrong = []
    for path, name, text in found:
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z_-]*)(?![\w.-]|\.\w)", text):
            others = {"--help", "--version", "--manual-dir", "--file-format", "--check",
                      "--custom-modules-path", "--config-name", "--config-dir", "--memory", "--mem", "--shm-size",
                      "--ulimit"}
            # of argparse, TFDS, sha256sum, TerraTorch, Hydra, docker, SLURM
            if f"--{flag.replace('_', '-')}" not in known_flags(path, name) | others:
                wrong.append(f"{path} ({name}): --{flag} in '{text[:100]}'")
    assert not wrong, "\n".join(wrong)


def test_every_key_of_a_message_exists_in_each_file_that_can_print_it(found):
    wrong, seen = [], 0
    for path, name, text in found:
        for key in re.findall(r"(?<![\w./'])(?:--)?config\.([a-z_]+(?:\.[a-z_]+)*)(?!\w|\.\{)", text):
            if f"config.{key}" in NO_KEYS:
                continue
            for file in files_of(path, name):
                seen += 1
                if key not in key_paths(values_of(file)):
                    wrong.append(f"{path} ({name}) with configs/{file}.py: config.{key} in '{text[:100]}'")
    assert not wrong, "\n".join(wrong)
    assert seen > 100


def test_every_value_of_a_message_can_be_set(found):
    seen = 0
    for path, name, text in found:
        for key, value in re.findall(r"--config\.([a-z_.]+)=([\w.()'+]+)", text):
            for file in files_of(path, name):
                values = values_of(file) | {"init_from": "RUN"}
                groups, last = key.split(".")[:-1], key.split(".")[-1]
                group = values
                for part in groups:
                    group = group[part]
                kind = type(group[last])
                group[last] = value == "True" if kind is bool else kind(value)
                values.get("data", {}).update({"dir": "DIR"})
                parse(AnyConfig, values)
                seen += 1
    assert seen >= 10


def test_every_command_of_a_message_can_be_parsed(found):
    known, seen = commands(), 0
    for path, name, text in found:
        for line in re.findall(r"(?:python -m |`)data_prep ((?!import)[^`(;]*)", text):
            words = line.replace("{}", "X").split()
            assert words and words[0] in known, f"{path} ({name}): '{line}'"
            given = [word.split("=")[0].replace("_", "-") for word in words if word.startswith("--")]
            assert set(given) <= options(known[words[0]]), f"{path} ({name}): '{line}'"
            seen += 1
        for module in re.findall(r"python -m (dual_encoder[.\w]*)", text):
            file = ROOT / module.replace(".", "/")
            assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), f"{path} ({name}): {module}"
        for file, variant in re.findall(r"(?<!\w)configs/(\w+)\.py(?::(\w+))?", text):
            module = importlib.import_module(f"configs.{file}")
            assert not variant or variant in module.VARIANTS, f"{path} ({name}): {file}:{variant}"
            seen += 1
    assert seen > 20
