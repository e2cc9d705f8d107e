"""Self-supervised pre-training: a radar and an optical image of one place and nearby time are the positive pair.

With one sensor, two augmentations of an image are the positive pair (SimCLR, Chen et al. 2020). Early fusion does the
same with the stacked bands of several sensors.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dual_encoder.augment import augment, record_keys
from dual_encoder.config import Before, IsPath, require
from dual_encoder.data.records import Records
from dual_encoder.data.selection import record_groups
from dual_encoder.data.subsets import PLACE
from dual_encoder.evaluation.embedded import EmbeddedSplit
from dual_encoder.evaluation.embedding_space import evaluate_embedding_space
from dual_encoder.evaluation.retrieval import evaluate_retrieval
from dual_encoder.evaluation.table import Evaluation, join
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.losses.choices import AnyObjective
from dual_encoder.losses.objective import clamp, compute, views
from dual_encoder.models.dual_encoder import DualEncoder, ProjectionConfig
from dual_encoder.models.fusion import Fusion, encoder_images, encoder_names
from dual_encoder.tasks.downstream import with_modules
from dual_encoder.tasks.micro_batches import TrainConfig, in_micro_batches
from dual_encoder.tasks.probe import KNN_OFF, KnnConfig, encoded
from dual_encoder.tasks.task import TaskConfig, check_start

# Name -> evaluation of a pre-trained model, in the order of the report. To add one, write a file in evaluation/ and
# name its function here.
EVALUATIONS: Mapping[str, Callable[[EmbeddedSplit], Evaluation]] = {
    "retrieval": evaluate_retrieval,
    "embedding_space": evaluate_embedding_space,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(TaskConfig):
    """Pre-training of one encoder per sensor; with one sensor, two augmentations of an image are the pair (SimCLR).

    Attributes:
      fusion: 'late', an encoder per sensor; 'early', one encoder of the stacked bands of all sensors, which is trained
        like that of one sensor.
      init_from: workdir of a pre-training run whose encoders, heads and statistics are the start; '' starts from random
        weights. The encoder of a sensor that the run does not have starts from random weights, too.
      init_step: checkpoint step of it; -1 takes the state that it chose, or else the newest.
      projection, loss, train, knn: the groups; each is described at its class.
    """

    task: Literal["pretrain"] = "pretrain"
    fusion: Annotated[Fusion, Before("late")]
    init_from: Annotated[str, IsPath(), Before("")]
    init_step: Annotated[int, Before(-1)]
    projection: ProjectionConfig
    loss: AnyObjective
    train: Annotated[TrainConfig, Before({"micro_batch": 0})]
    knn: Annotated[KnnConfig, Before(KNN_OFF)]

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of the encoders, as of `encoder_names`."""
        return encoder_names(self.sensors, self.fusion)

    def check(self, path: str) -> None:
        """Raises UserError when two groups do not fit together."""
        super().check(path)
        check_start(self.init_from, self.data.statistics, path)
        require(self.batch_size >= 2, f"{path}.batch_size", self.batch_size, "at least 2: one pair has no negatives")
        rows = self.train.micro_batch
        require(rows == 0 or self.batch_size % rows == 0, f"{path}.train.micro_batch", rows,
                f"0, or a divisor of {path}.batch_size, {self.batch_size}")
        if self.fusion == "early":
            require(self.augment.shared_crop, f"{path}.augment.shared_crop", False,
                    f"True with {path}.fusion=early: stacked bands show the same pixels")
            require(not self.loss.two_views, f"{path}.fusion", self.fusion,
                    f"'late': '{self.loss.name}' compares the encoders of two sensors")
        self.loss.check_embeddings(self.encoders, self.projection.dim)

    def micro_batch_rows(self) -> int:
        """Returns how many rows are computed at one time, over all devices; 0: the whole batch."""
        return self.train.micro_batch


def known_encoders(config: PretrainConfig, pretrained: Mapping[str, Any]) -> list[str]:
    """Returns the names of the configured encoders that a checkpoint, {'params', 'batch_stats'}, has."""
    return [name for name in config.encoders if f"{name}_encoder" in pretrained["params"]]


class Pretrain:
    """The encoders and heads of config.fusion, under the objective of config.loss over the global batch.

    Args:
      config: of the run.
      sensors: spec of each of config.inputs, with the statistics for normalising.
      mesh: the batch is sharded over it; only config.loss.chunk needs it.
      pretrained: {'params', 'batch_stats'} of a pre-training run to start from, or None for random weights.
      evaluations: names of EVALUATIONS, in the order of the report; () is all of them.
    """

    frozen: tuple[str, ...] = ()

    def __init__(self, config: PretrainConfig, sensors: Mapping[str, SensorSpec], mesh: Mesh | None = None,
                 pretrained: Mapping[str, Any] | None = None, evaluations: Sequence[str] = ()):
        self.config, self.mesh, self.pretrained = config, mesh, pretrained
        self.evaluations = evaluations or tuple(EVALUATIONS)
        self.features = config.features
        self.sensors = {name: sensors[name] for name in self.features}
        self.model = DualEncoder(self.features, config.encoder, config.projection.hidden, config.projection.dim,
                                 config.fusion)

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (params, batch_stats); see `Task`."""
        images = {name: np.zeros((2, 64, 64, len(spec.bands)), np.float32) for name, spec in self.sensors.items()}
        variables = jax.jit(lambda k: self.model.init(k, images, train=True))(key)
        taken = [] if self.pretrained is None else known_encoders(self.config, self.pretrained)
        params, batch_stats = with_modules(variables, self.pretrained,
                                           [f"{name}_{part}" for name in taken for part in ("encoder", "head")])
        return params | self.config.loss.scalars(), batch_stats

    def loss(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
             ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns (loss, (batch_stats, metrics)) of raw images [batch, height, width, bands]; see `Task`."""
        embeddings, batch_stats = self.embed(params, batch_stats, batch, key)
        loss, metrics = compute(self.config.loss, embeddings, params, batch["location"], self.mesh)
        return loss, (batch_stats, metrics)

    def embed(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
              ) -> tuple[dict[str, list[jax.Array]], Any]:
        """Returns encoder -> projections [batch, dim] float32 of each augmented view, and the new batch_stats."""
        count = views(self.config.loss, self.config.encoders)
        rows = {name: batch[name] for name in self.features}
        keys = [record_keys(k, len(batch["location"])) for k in ([key] if count == 1 else jax.random.split(key, count))]

        def embed(rows, keys):
            return self._embed(params, batch_stats, rows, keys)

        if not self.config.train.micro_batch:
            return embed(rows, keys)
        return in_micro_batches(embed, self.config.batch_size // self.config.train.micro_batch, rows, keys)

    def _embed(self, params: Any, batch_stats: Any, rows: Mapping[str, jax.Array], keys: Sequence[jax.Array]
               ) -> tuple[dict[str, list[jax.Array]], Any]:
        """`embed` of some rows, which have one key per view."""
        count = len(keys)
        augmented = [augment(rows, self.sensors, self.config.augment, k) for k in keys]
        images = {}
        for name in self.features:  # the views of a row stay side by side, on the row's device
            stacked = jnp.stack([view[name] for view in augmented], axis=1)
            images[name] = stacked.reshape(-1, *stacked.shape[2:])
        projections, updated = self.model.apply({"params": params, "batch_stats": batch_stats}, images, train=True,
                                                mutable=["batch_stats"])
        embeddings = {name: [z.reshape(-1, count, z.shape[1])[:, view] for view in range(count)]
                      for name, z in projections.items()}
        return embeddings, updated.get("batch_stats", {})

    def project(self, params: Any) -> Any:
        """Returns `params` with the similarity scale clamped."""
        return clamp(params)

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns name -> projections [batch, dim] float32 of the whole images, and `location` as in the batch.

        The names are those of the encoders. Of a single encoder there is also `<name>_turned`: the image turned upside
        down.
        """
        def apply(images):
            return self.model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)

        images = {name: normalise(batch[name], self.sensors[name]) for name in self.features}
        embeddings = apply(images)
        if len(self.config.encoders) == 1:
            turned = apply({name: image[:, ::-1, ::-1] for name, image in images.items()})
            embeddings |= {f"{name}_turned": z for name, z in turned.items()}
        return embeddings | {"location": batch["location"]}

    def vectors(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `vector`, the pooled features of the encoders without heads, float32 [batch, dim], side by side.

        `label` and `location` are those of the batch. Pure.
        """
        images = {name: normalise(batch[name], spec) for name, spec in self.sensors.items()}
        vectors = [encoded(self.config.encoder, params, batch_stats, name, image).pooled
                   for name, image in encoder_images(images, self.features, self.config.fusion).items()]
        return {"vector": jnp.concatenate(vectors, axis=-1), "label": batch["label"], "location": batch["location"]}

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records) -> Evaluation:
        """Runs the evaluations on the embeddings of a split, with config.data.subset.groups; see `Task.evaluate`."""
        rows = [output | {"number": numbers} for numbers, output in outputs]
        columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        # The partner of an image is that of the other encoder; with one encoder, the same image turned upside down.
        names = self.config.encoders
        views = names if len(names) > 1 else (*names, f"{names[0]}_turned")
        # Pictures show the last sensor of a stack.
        features = dict.fromkeys(views, self.features[-1]) if len(names) == 1 else {view: view for view in views}
        groups = self.config.data.subset.groups
        split = EmbeddedSplit(
            vectors={view: columns[view] for view in views}, features=features,
            sensors={view: self.sensors[feature] for view, feature in features.items()}, places=columns["location"],
            record=lambda row: records.record(int(columns["number"][row])),
            groups=None if groups == PLACE else record_groups(records, groups)[columns["number"]])
        return join(EVALUATIONS[name](split) for name in self.evaluations)
