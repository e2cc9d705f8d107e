"""Contrastive pre-training: a radar and an optical image of one place and nearby time are the positive pair."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dual_encoder.augment import augment, normalise
from dual_encoder.config import PretrainConfig
from dual_encoder.evaluation.retrieval import one_per_location, retrieval_gallery, retrieval_scores, top_matches
from dual_encoder.input import Records
from dual_encoder.losses import MAX_SCALE, info_nce
from dual_encoder.models.dual_encoder import DualEncoder
from dual_encoder.sensors import SensorSpec

SENSORS = ("s1", "s2")
_GALLERY_ROWS = 8


class Pretrain:
    """Dual encoder with symmetric InfoNCE over the global batch.

    Args:
      config: of the run.
      sensors: spec of 's1' and 's2', with the statistics to normalise with.
    """

    features = SENSORS
    frozen = ()

    def __init__(self, config: PretrainConfig, sensors: Mapping[str, SensorSpec]):
        self.config = config
        self.sensors = {name: sensors[name] for name in SENSORS}
        self.model = DualEncoder(SENSORS, config.encoder.depth, config.encoder.width, config.projection.hidden,
                                 config.projection.dim, 1.0 / config.loss.temperature, jnp.dtype(config.encoder.dtype))

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (params, batch_stats); see train_state.Task."""
        images = {name: jnp.zeros((2, 64, 64, len(spec.bands))) for name, spec in self.sensors.items()}
        variables = jax.jit(lambda k: self.model.init(k, images, train=True))(key)
        return variables["params"], variables["batch_stats"]

    def loss(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
             ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns (loss, (batch_stats, metrics)) of raw images [batch, height, width, bands]; see train_state.Task."""
        config = self.config.loss
        images = augment({name: batch[name] for name in SENSORS}, self.sensors, self.config.augment, key)
        (embeddings, log_scale), updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"])
        if not config.learnable_temperature:
            log_scale = jax.lax.stop_gradient(log_scale)
        scale = jnp.exp(log_scale)
        location = batch["location"] if config.false_negatives == "mask" else None
        loss, metrics = info_nce(embeddings["s1"], embeddings["s2"], scale, location)
        return loss, (updated["batch_stats"], metrics | {"temperature": 1.0 / scale})

    def project(self, params: Any) -> Any:
        """Clamps the similarity scale itself, as CLIP does: a clamp inside the loss would end its gradient."""
        return params | {"log_scale": jnp.minimum(params["log_scale"], jnp.log(MAX_SCALE))}

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns sensor -> embeddings [batch, dim] float32 of the whole images, and `location` as in the batch."""
        images = {name: normalise(batch[name], self.sensors[name]) for name in SENSORS}
        embeddings, _ = self.model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        return embeddings | {"location": batch["location"]}

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records
                 ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Cross-modal retrieval among distinct places, both directions; see train_state.Task."""
        rows = [output | {"number": numbers} for numbers, output in outputs]
        columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        places = one_per_location(columns["location"])
        numbers, vectors = columns["number"][places], {name: columns[name][places] for name in SENSORS}
        scores, pictures = {}, {}
        for query, gallery in (SENSORS, SENSORS[::-1]):
            direction = f"{query}_to_{gallery}"
            scores[direction] = retrieval_scores(vectors[query], vectors[gallery])
            shown = np.linspace(0, len(numbers) - 1, min(_GALLERY_ROWS, len(numbers))).astype(int)
            matches = top_matches(vectors[query][shown], vectors[gallery], 5)
            pictures[f"retrieval_{direction}"] = retrieval_gallery(
                [records.record(int(numbers[i]))[query] for i in shown], self.sensors[query],
                [[records.record(int(numbers[j]))[gallery] for j in row] for row in matches], self.sensors[gallery],
                [[int(j) == int(i) for j in row] for i, row in zip(shown, matches, strict=True)])
        return scores, pictures
