"""The part that all downstream tasks share: encoders from a pre-training checkpoint, and a label."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dual_encoder.config import require
from dual_encoder.errors import UserError
from dual_encoder.tasks.task import TaskConfig, check_start


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownstreamConfig(TaskConfig):
    """The configuration that all downstream tasks share.

    Attributes:
      init_from: workdir of a pre-training run; '' starts from random weights.
      init_step: checkpoint step of it; -1 takes the newest.
      frozen: keep the encoders and their BatchNorm statistics as they are.
    """

    init_from: str
    init_step: int
    frozen: bool

    @property
    def features(self) -> tuple[str, ...]:
        """The tensors of a record that the task reads."""
        return (*self.sensors, "label")

    @property
    def frozen_parameters(self) -> tuple[str, ...]:
        """Top-level names of the parameters that never change."""
        return tuple(f"{name}_encoder" for name in self.sensors) if self.frozen else ()

    def check(self, path: str) -> None:
        """Raises UserError when two groups do not fit together."""
        super().check(path)
        require(self.augment.shared_crop, f"{path}.augment.shared_crop", False,
                "True: a label belongs to the pixels of all images")
        check_start(self.init_from, self.data.statistics, path)


def with_encoders(fresh: Mapping[str, Any], pretrained: Mapping[str, Any] | None, sensors: tuple[str, ...]
                  ) -> tuple[Any, Any]:
    """Returns (params, batch_stats) of a model whose encoders come from a checkpoint.

    Args:
      fresh: variables of the model with random weights.
      pretrained: {'params', 'batch_stats'} of a pre-trained dual encoder; None keeps the random weights.
      sensors: the encoders `<sensor>_encoder` to take.

    Raises:
      UserError: the checkpoint has no such encoder, or one with other parameters or statistics.
    """
    return with_modules(fresh, pretrained, [f"{name}_encoder" for name in sensors])


def with_modules(fresh: Mapping[str, Any], pretrained: Mapping[str, Any] | None, names: Iterable[str]
                 ) -> tuple[Any, Any]:
    """Returns (params, batch_stats) of a model with some modules of a checkpoint.

    Args:
      fresh: variables of the model with random weights.
      pretrained: {'params', 'batch_stats'} of the checkpoint; None keeps the random weights.
      names: the modules to take, such as 's1_encoder' and 's1_head'.

    Raises:
      UserError: the checkpoint has no such module, or one with other parameters or statistics.
    """
    variables = {kind: dict(fresh.get(kind, {})) for kind in ("params", "batch_stats")}
    if pretrained is not None:
        for name in names:
            taken = _take(pretrained, name, variables)
            variables = {kind: trees | taken[kind] for kind, trees in variables.items()}
    return variables["params"], variables["batch_stats"]


def _take(pretrained: Mapping[str, Any], name: str, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the module `name` of a checkpoint, {'params': {name: ...}, 'batch_stats': ...}."""
    if name not in pretrained["params"]:
        encoders = sorted(key for key in pretrained["params"] if key.endswith("_encoder"))
        raise UserError(f"the checkpoint has no '{name}', it has {encoders}; choose other config.inputs")
    kinds = ("params", "batch_stats")  # an encoder without BatchNorm has no statistics
    theirs, ours = ({kind: {name: tree[kind][name]} if name in tree.get(kind, {}) else {} for kind in kinds}
                    for tree in (pretrained, fresh))
    seen, expected = dict(_shapes(theirs)), dict(_shapes(ours))
    different = sorted(key for key in seen | expected if seen.get(key) != expected.get(key))
    if different:
        key, width = different[0], "projection.hidden" if name.endswith("_head") else "encoder.width"
        raise UserError(f"the checkpoint's {name} differs from the configured one: '{key}' is {seen.get(key)} in the "
                        f"checkpoint, {expected.get(key)} in the model ({len(different)} such); set the keys of "
                        f"config.{width.split('.')[0]} (--config.{width} and so on) as in pre-training")
    return jax.tree.map(jnp.asarray, theirs)


def _shapes(tree: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = path[2:]  # after collection and encoder; the leaves of params and batch_stats differ in name
        yield jax.tree_util.keystr(names, simple=True, separator="/"), tuple(leaf.shape)
