"""The description of a model whose parameters are exported alone: model.json, from which the code here builds it."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from dual_encoder.errors import UserError, one_line
from dual_encoder.export.source import Source
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.workdir.checkpoint import LoadedModel

_NAME = "model.json"


def description(source: Source) -> dict[str, bytes]:
    """Returns the file with the facts of the run that build the model again."""
    model = source.model
    facts = {"sensor": source.sensor, "step": model.step, "config": model.config, "dataset": model.dataset,
             "sensors": {name: spec.to_json() for name, spec in model.sensors.items()},
             "code_version": model.code_version}
    return {_NAME: (json.dumps(facts, indent=2) + "\n").encode()}


def function(folder: str, variables: Mapping[str, Any]) -> Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Returns the compiled function of an export with these parameters; it takes stored integers.

    Args:
      folder: of the export.
      variables: {'params', 'batch_stats'}.

    Raises:
      UserError: model.json is missing or damaged.
    """
    try:
        facts = json.loads((pathlib.Path(folder) / _NAME).read_bytes())
        model = LoadedModel(facts["step"], variables, facts["config"],
                            {name: SensorSpec.from_json(spec) for name, spec in facts["sensors"].items()},
                            facts["dataset"], facts["code_version"])
        source = Source(model, facts["sensor"], "stored")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{folder}/{_NAME}' cannot be read ({one_line(error)}); export the model again") from error
    return jax.jit(source.program)
