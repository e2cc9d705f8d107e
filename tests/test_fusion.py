"""Early fusion: one encoder of the stacked bands of both sensors, in the step, in a run and in the evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.augment import augment, record_keys
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.imagery.normalise import normalise
from dual_encoder.models.dual_encoder import ProjectionHead
from dual_encoder.models.fusion import encoder_images, encoder_names
from dual_encoder.tasks.pretrain import Pretrain
from dual_encoder.workdir import checkpoint, metrics
from tests import runs


def configure(folder="data/x", **changes):
    """Stacked SimCLR with photometric options of both sensors."""
    return runs.configure(folder, **{"fusion": "early", "loss__name": "nt_xent",
                                     "augment__sar_gain_db": 1.0, "augment__optical_brightness": 0.4,
                                     "augment__blur": 0.5} | changes)


def reference(task, params, images):
    """Projections of the stack, by the encoder and the head alone."""
    def project(images):
        stack = jnp.concatenate([images["s1"], images["s2"]], axis=-1)
        features = task.config.encoder.make().apply({"params": params["s1_s2_encoder"]}, stack, True)
        return ProjectionHead(16, 8).apply({"params": params["s1_s2_head"]}, features.pooled)

    return jax.jit(project)(images)


def test_late_fusion_takes_the_images_as_they_are_and_early_fusion_stacks_them():
    images = {"s2": jnp.full((2, 4, 4, 12), 2.0), "s1": jnp.full((2, 4, 4, 2), 1.0), "dem": jnp.zeros((2, 3, 4, 1))}
    late = encoder_images(images, ("s1", "s2"), "late")
    assert tuple(late) == encoder_names(("s1", "s2"), "late") == ("s1", "s2") and late["s2"] is images["s2"]
    early = encoder_images(images, ("s1", "s2"), "early")
    assert tuple(early) == encoder_names(("s1", "s2"), "early") == ("s1_s2",)
    np.testing.assert_array_equal(early["s1_s2"][1, 3, 2], [1.0] * 2 + [2.0] * 12)
    with pytest.raises(UserError, match=r"different sizes \(s1 4 x 4, dem 3 x 4 pixels\)"):
        encoder_images(images, ("s1", "dem"), "early")


def test_two_augmented_stacks_are_the_pair(write_dataset):
    """Each sensor keeps its own photometric options; the views and the micro-batches are those of one sensor."""
    config = configure(write_dataset(), train__micro_batch=4)
    records = Records(config.data.dir, "train", ("s1", "s2"))
    task = Pretrain(config, records.info.sensors)
    params, stats = task.init(jax.random.key(0))
    assert stats == {} and params["s1_s2_encoder"]["patch_embed"]["kernel"].shape[2] == 14
    rows = [records[number] for number in range(8)]
    batch = {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}
    embeddings, _ = jax.jit(task.embed)(params, stats, batch, jax.random.key(3))
    for view, key in enumerate(jax.random.split(jax.random.key(3))):
        images = jax.jit(lambda batch, key: augment(batch, task.sensors, config.augment, record_keys(key, 8)))(
            {name: batch[name] for name in ("s1", "s2")}, key)
        # Sums of another order in some layers; the projections are of order 0.1.
        np.testing.assert_allclose(embeddings["s1_s2"][view], reference(task, params, images), atol=1e-4)
    assert np.abs(embeddings["s1_s2"][0] - embeddings["s1_s2"][1]).max() > 1e-2


def test_the_partner_of_a_stack_is_the_stack_turned_upside_down(write_dataset):
    config = configure(write_dataset())
    records = Records(config.data.dir, "test", ("s1", "s2"))
    task = Pretrain(config, records.info.sensors)
    params, stats = task.init(jax.random.key(0))
    batch = {name: jnp.asarray(value)[None] for name, value in records[0].items()}
    images = {name: normalise(batch[name], task.sensors[name]) for name in ("s1", "s2")}
    outputs = jax.jit(task.predict)(params, stats, batch)
    np.testing.assert_allclose(outputs["s1_s2"], reference(task, params, images), atol=1e-5)
    turned = {name: np.rot90(image, 2, (1, 2)) for name, image in images.items()}
    np.testing.assert_allclose(outputs["s1_s2_turned"], reference(task, params, turned), atol=1e-5)


def test_a_run_is_scored_and_its_checkpoint_says_what_it_holds(write_dataset, tmp_path):
    config = configure(write_dataset(), loss__false_negatives="keep")
    runs.fit(config, tmp_path / "run", jax.devices()[:1])
    scores = [row for row in metrics.read(tmp_path / "run") if row["kind"] == "eval"][-1]
    assert scores["s1_s2_to_s1_s2_turned/gallery_size"] == 8 and scores["space/s1_s2/rank"] > 1
    model = checkpoint.load_model(tmp_path / "run")
    assert set(model.sensors) == {"s1", "s2"} and model.config["fusion"] == "early"
    assert set(model.variables["params"]) == {"s1_s2_encoder", "s1_s2_head", "log_scale"}
    with pytest.raises(UserError, match="'s1_s2_encoder' takes the stacked bands of s1 and s2; this format describes"):
        export(Source(model, "s1_s2"), tmp_path / "out")


@pytest.mark.parametrize("changes, message", [
    ({"fusion": "middle"}, "config.fusion is 'middle'; "),
    ({"augment__shared_crop": False}, "config.augment.shared_crop is False; expected True with config.fusion=early"),
    ({"loss__name": "iai_simclr"}, "config.fusion is 'early'; expected 'late': 'iai_simclr' compares the encoders of"),
])
def test_a_mistake_in_the_configuration_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        configure(**changes)
