"""The benchmarks of the training step and of the search run to their end, at sizes that say nothing."""

import pytest

from tests import commands


@pytest.mark.slow
@pytest.mark.parametrize("arguments, expected", [
    (["loss", "--batch=64", "--large=128", "--huge=256", "--peer-batch=32", "--chunk=16", "--repeats=1"], "open_clip"),
    (["gradient_cache", "--batch=16", "--micro-batch=8", "--timed-batch=8", "--repeats=1", "--family=vit"],
     "in 4 micro-batches"),
    (["trainer", "--steps=60", "--milliseconds=1"], "ms per checkpoint"),
    (["train_step", "--width=8", "--size=32", "--batch=8", "--steps=2", "--turns=1"], "pairs/s"),
    (["train_step", "--family=vit", "--depth=1", "--width=64", "--size=32", "--batch=8", "--steps=2", "--turns=1"],
     "pairs/s"),
    (["convolutions", "--width=8", "--size=32", "--batch=2", "--repeats=1"], "  all             ours"),
    (["search", "--vectors=70000", "--dim=8", "--queries=3"], "  3 queries at once"),
], ids=["loss", "gradient_cache", "trainer", "train_step_resnet", "train_step_vit", "convolutions", "search"])
def test_it_runs(arguments, expected):
    result = commands.run("-m", f"benchmarks.{arguments[0]}", *arguments[1:])
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout
