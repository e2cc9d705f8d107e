"""Forms that exist only because they were faster with one version of jaxlib: each is measured again with the next one.

Each such form has a constant beside it, the minor version of jaxlib that it was measured with. If a newer jaxlib is
installed, a test here fails and names the command. Measure, then update the constant, or remove the form.
"""

import ast
import importlib
import importlib.util
import pathlib
import re
from typing import NamedTuple

import jaxlib
import pytest

ROOT = pathlib.Path(__file__).parent.parent
GPU = "on a GPU with `python -m benchmarks.train_step"
VIT = "--family=vit --depth=12 --width=768 --size=224 --batch=256 --dtype=bfloat16`, with and without the form"


class Form(NamedTuple):
    """A form: module and constant, a description, and the instruction to measure again."""

    module: str
    constant: str
    what: str
    measure: str


FORMS = [
    Form("models.convolution", "_MEASURED_WITH", "convolutions on a CPU",
         "with `python -m benchmarks.convolutions` (column 'xla': without the forms)"),
    Form("models.convolution", "_POOLING_MEASURED_WITH", "max-pooling on a CPU and on a GPU",
         f"with and without the form, on a CPU with `python -m benchmarks.train_step` and {GPU} --depth=50 --width=64 "
         "--size=224 --batch=256 --dtype=bfloat16`"),
    Form("models.attention", "_MEASURED_WITH", "cuDNN's attention, with an even number of tokens", f"{GPU} {VIT}"),
    Form("models.vit", "_MEASURED_WITH", "the tokens of all images in one axis", f"{GPU} {VIT}"),
    Form("runtime.heap", "_MEASURED_WITH", "freed memory is kept on a CPU",
         "with `python -m benchmarks.train_step --width=32 --size=128 --steps=3`, and once more with "
         "MALLOC_ARENA_TEST=8 (glibc's default) in the environment, which turns the form off"),
]


def measured_with(form):
    return getattr(importlib.import_module(f"dual_encoder.{form.module}"), form.constant)


def complaint(form, measured, installed):
    """Returns '' or, if the minor version of `installed` is newer than `measured`, what to do."""
    minor = installed.split(".")[:2]
    if tuple(map(int, minor)) <= tuple(map(int, measured.split("."))):
        return ""
    return (f"jaxlib {'.'.join(minor)} is new; {form.what} (dual_encoder.{form.module}) was measured with {measured}: "
            f"measure again {form.measure}, then update {form.constant} or remove the form")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.module}.{form.constant}")
def test_the_form_was_measured_with_this_jaxlib(form):
    message = complaint(form, measured_with(form), jaxlib.__version__)
    assert not message, message


def test_only_a_newer_minor_version_is_reported():
    form = FORMS[0]
    assert not complaint(form, "0.10", "0.10.9") and not complaint(form, "0.10", "0.9.2")
    for newer in ("0.11.0", "0.100.0", "1.0.0", "0.11.0.dev20261101"):
        assert complaint(form, "0.10", newer).startswith(f"jaxlib {'.'.join(newer.split('.')[:2])} is new; ")
    assert "`python -m benchmarks.convolutions`" in complaint(form, "0.10", "0.11.0")


def test_every_constant_is_in_the_table_and_every_command_exists():
    found = set()
    for path in (ROOT / "dual_encoder").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").endswith("MEASURED_WITH"):
                found.add((".".join(path.relative_to(ROOT / "dual_encoder").with_suffix("").parts), node.targets[0].id))
    assert found == {(form.module, form.constant) for form in FORMS}
    for form in FORMS:
        commands = re.findall(r"python -m ([\w.]+)", form.measure)
        assert commands and all(importlib.util.find_spec(command) for command in commands), form
