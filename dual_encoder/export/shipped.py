"""Code that exports bring along: copies of files of this room."""

import importlib.resources
from collections.abc import Mapping

# Name in the export -> file here: bands and statistics of the encoder, and the way from other units to its input.
PREPARATION = {"weights.py": "torchgeo_weights.py", "preparation.py": "preparation.py"}


def copies(code: Mapping[str, str]) -> dict[str, bytes]:
    """Returns name in the export -> content, of name in the export -> file here."""
    return {name: own(file) for name, file in code.items()}


def own(file: str) -> bytes:
    """Returns the content of a file of this room."""
    return (importlib.resources.files("dual_encoder.export") / file).read_bytes()
