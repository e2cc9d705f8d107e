"""The advice on large pages: given where the kernel waits to be asked and glibc does not ask yet."""

import os

import jax
import pytest

from dual_encoder import huge_pages


@pytest.fixture
def advice(tmp_path, monkeypatch):
    """Returns the advice for a kernel's setting, GLIBC_TUNABLES and a version of glibc."""
    def ask(kernel="always [madvise] never", tunables="", glibc="glibc 2.36"):
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)
        monkeypatch.setattr(os, "confstr", lambda name: glibc)
        (tmp_path / "enabled").write_text(kernel)
        monkeypatch.setattr(huge_pages, "_KERNEL", str(tmp_path / "enabled"))
        return huge_pages.advice()

    return ask


def test_names_the_variable_and_keeps_what_is_set(advice):
    assert "with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment" in advice()
    assert "GLIBC_TUNABLES=glibc.malloc.check=3:glibc.malloc.hugetlb=1 " in advice(tunables="glibc.malloc.check=3")


def test_is_silent_where_there_is_nothing_to_gain(advice, monkeypatch, tmp_path):
    assert advice(tunables="glibc.malloc.hugetlb=0") == "", "the user chose"
    assert advice(kernel="[always] madvise never") == advice(kernel="always madvise [never]") == ""
    assert advice(glibc="glibc 2.31") == advice(glibc=None) == ""
    monkeypatch.setattr(huge_pages, "_KERNEL", str(tmp_path / "no such file"))
    assert huge_pages.advice() == ""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert advice() == ""
