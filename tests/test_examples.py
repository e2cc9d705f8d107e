"""The examples in the docstrings of the losses give the results that they show."""

import doctest
import importlib

import pytest

pytestmark = pytest.mark.quick

# Module -> its public functions; each must have an example.
EXAMPLES = {
    "dual_encoder.losses.contrastive": {"info_nce", "nt_xent", "iai_simclr", "sigmoid"},
    "dual_encoder.losses.correlation": {"barlow", "decur", "vicreg"},
    "dual_encoder.losses.segmentation": {"cross_entropy", "soft_dice"},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_public_loss_has_an_example_and_it_is_true(name):
    module = importlib.import_module(name)
    public = {key for key, value in vars(module).items()
              if not key.startswith("_") and getattr(value, "__module__", "") == name and not isinstance(value, type)}
    assert public == EXAMPLES[name]
    tests = {test.name.rsplit(".", 1)[-1]: test for test in doctest.DocTestFinder().find(module) if test.examples}
    assert set(tests) == public
    runner = doctest.DocTestRunner(verbose=False)
    report: list[str] = []
    for test in tests.values():
        runner.run(test, out=report.append)
    assert not report, "".join(report)
