"""Every kind of encoder through the tasks: devices, checkpoints, fine-tuning, optimizers, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from configs import pretrain
from dual_encoder.config import parse
from dual_encoder.data.batches import batches
from dual_encoder.errors import UserError
from dual_encoder.models.pyramid import Pyramid
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import AnyConfig
from dual_encoder.training.step import compile_step, init_state
from dual_encoder.workdir import checkpoint, metrics
from tests import runs
from tests.runs import fit, open_run

SENSORS = ("s1", "s2")
VIT = {"family": "vit", "depth": 2, "width": 64, "patch": 8, "image_size": 32}
CROMA = {"family": "croma", "depth": 2, "width": 32}
GROUP = {"norm": "group", "width": 8}

pytestmark = pytest.mark.usefixtures("short_resnet")


def configure(variant, folder, encoder, **changes):
    """`runs.configure` of a variant with another encoder."""
    return runs.configure(folder, variant, family="resnet", encoder=encoder, **changes)


def shapes(task):
    """(params, batch_stats) without values."""
    return jax.eval_shape(task.init, jax.random.key(0))


def gradients(task, records, devices):
    """Loss, new statistics and gradients of one batch of 16."""
    devices = mesh.make(devices)
    params, stats = jax.device_put(task.init(jax.random.key(0)), mesh.replicated(devices))
    stream = batches(records, seed=0, batch_size=16, rows=range(16), start=0, stop=1, threads=1, processes=0)
    batch = mesh.to_global(next(stream), devices)
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True), out_shardings=mesh.replicated(devices))
    (loss, (stats, _)), grads = function(params, stats, batch, jax.random.key(1))
    return loss, stats, grads


def assert_close(ours, expected, tolerance):
    """Relative to the largest value of each tensor."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-6)),
                 ours, expected)


@pytest.fixture(scope="module")
def pairs(write_dataset):
    return write_dataset()


@pytest.fixture(scope="module")
def labelled(write_dataset):
    return write_dataset(labels=True)


@pytest.mark.parametrize("encoder", [VIT, VIT | {"pool": "mean", "positions": "sincos"}, CROMA, GROUP],
                         ids=["vit_token", "vit_mean_sincos", "croma", "groupnorm"])
def test_one_device_equals_eight_without_batch_statistics(pairs, encoder):
    task, records = open_run(configure("smoke", pairs, encoder))
    one, eight = (gradients(task, records, devices) for devices in (jax.devices()[:1], jax.devices()))
    assert one[1] == eight[1] == {}
    # Float32 sums in another order differ by 1e-6 or so; GroupNorm of few values amplifies that, layer by layer.
    assert_close(eight[0], one[0], 1e-5)
    assert_close(eight[2], one[2], 1e-3 if encoder is GROUP else 1e-4)


def test_every_key_reaches_the_encoder():
    keys = dict(depth=7, width=192, norm="group", patch=4, image_size=48, pool="mean", positions="sincos", shift=1,
                remat=True, dtype="bfloat16")
    of_vit = {"patch", "image_size", "pool", "positions", "shift"}
    for family, unused in (("vit", {"norm"}), ("resnet", of_vit), ("croma", {"norm", *of_vit})):
        keys["depth"] = 18 if family == "resnet" else 7
        encoder = runs.configure("unread", augment__crop=0, encoder={"family": family} | keys).encoder.make()
        assert type(encoder).__name__.lower() == family
        for key, value in keys.items():
            if key not in unused:
                assert getattr(encoder, key) == value, key


@pytest.mark.parametrize(("encoder", "stem"), [(VIT, "patch_embed"), (CROMA, "patch_embed"), ({"width": 8}, "conv1")])
def test_every_sensor_has_a_stem_for_its_own_bands(pairs, encoder, stem):
    task, _ = open_run(configure("smoke", pairs, encoder))
    params, _ = shapes(task)
    kernels = [params[f"{name}_encoder"][stem]["kernel"].shape for name in SENSORS]
    assert [shape[2] for shape in kernels] == [2, 12] and kernels[0][3] == kernels[1][3] == task.config.encoder.width


@pytest.fixture(scope="module")
def vit_run(pairs, tmp_path_factory):
    """Two steps of pre-training a ViT: its configuration and the workdir."""
    config = configure("smoke", pairs, VIT)
    workdir = epath.Path(tmp_path_factory.mktemp("vit") / "run")
    fit(config, workdir)
    return config, workdir


def test_a_run_without_batch_statistics_can_be_resumed_loaded_and_scored(vit_run, pairs, capsys):
    config, workdir = vit_run
    assert [row for row in metrics.read(workdir) if row["kind"] == "eval"][-1]["s1_to_s2/gallery_size"] == 8
    model = checkpoint.load_model(workdir)
    assert model.step == 2 and model.variables["batch_stats"] == {}
    assert model.variables["params"]["s1_encoder"]["pos_embed"].shape == (1, 17, 64)
    fit(config, workdir)
    assert "from step 2 to 2" in capsys.readouterr().out


@pytest.mark.parametrize(("inputs", "frozen"), [("s1+s2", False), ("s1", True)])
def test_fine_tuning_from_a_transformer(vit_run, labelled, inputs, frozen):
    pretrained = checkpoint.load_model(vit_run[1]).variables
    config = configure("water_weak", labelled, VIT, inputs=inputs, frozen=frozen)
    task, records = open_run(config, pretrained)
    devices = mesh.make(jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, 8, 10, task.frozen)
    state = init_state(task, optimizer, config, devices)
    before = jax.device_get(state.params)
    for name in inputs.split("+"):
        jax.tree.map(np.testing.assert_array_equal, before[f"{name}_encoder"], pretrained["params"][f"{name}_encoder"])
    step = compile_step(task, optimizer, config, devices)
    stream = batches(records, seed=0, batch_size=8, rows=range(8), start=0, stop=1, threads=1, processes=0)
    batch = next(stream)
    for _ in range(2):  # the first step of the warm-up has rate 0
        state, _ = step(state, mesh.to_global(batch, devices))
    for name, trees in jax.device_get(state.params).items():
        moved = [(a != b).any() for a, b in zip(jax.tree.leaves(trees), jax.tree.leaves(before[name]), strict=True)]
        if name.endswith("_encoder"):
            # The last norm does not touch the maps, nor does the class token those of the last block.
            assert not any(moved) if frozen else sum(moved) > len(moved) - 4
        else:
            assert any(moved), name
    # Whole tiles of 40 px, which are 5 patches; and of 36 px, which are filled up.
    for size in (40, 36):
        cut = {key: value[:, :size, :size] if value.ndim > 2 else value for key, value in batch.items()}
        prediction = jax.jit(task.predict)(state.params, state.batch_stats, cut)["prediction"]
        assert prediction.shape == (8, size, size)


def test_fine_tuning_of_a_transformer_learns_a_label_that_the_radar_shows(labelled, tmp_path):
    config = configure("water_weak", labelled, VIT, class_weights="inverse")
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=60))
    fit(config, tmp_path / "run", jax.devices()[:1])
    final = [row for row in metrics.read(tmp_path / "run") if row["kind"] == "eval"][-1]
    assert final["miou"] > 0.6, "guessing one class gives 0.25"


@pytest.mark.parametrize(("patch", "depth", "blocks"), [(8, 12, (4, 8, 12)), (16, 12, (3, 6, 9, 12)),
                                                        (16, 2, (1, 1, 2, 2))])
def test_pyramid_has_every_stride_up_to_the_patch_from_evenly_spaced_blocks(patch, depth, blocks):
    maps = tuple(jnp.asarray(np.random.default_rng(n).standard_normal((1, 3, 2, 64)), jnp.float32)
                 for n in range(depth))
    model = Pyramid(patch, 4, jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), maps)
    levels, pull_back = jax.vjp(jax.jit(lambda maps: model.apply(variables, maps)), maps)
    assert [level.shape[1:3] for level in levels] == [
        (3 * patch // stride, 2 * patch // stride) for stride in (2, 4, 8, 16)[:len(blocks)]]
    for number, block in enumerate(blocks):
        slopes, = pull_back(tuple(level if n == number else jnp.zeros_like(level) for n, level in enumerate(levels)))
        assert [n + 1 for n, slope in enumerate(slopes) if slope.any()] == [block]


@pytest.mark.parametrize("change, message", [
    ({"width": 128}, r"s1_encoder differs .* is \(64,\) in the checkpoint, \(128,\) in the model"),
    ({"depth": 1}, r"'blocks_1/attn_proj/bias' is \(64,\) in the checkpoint, None in the model"),
    ({"pool": "mean"}, r"'cls_token' is \(1, 1, 64\) in the checkpoint, None in the model"),
    ({"image_size": 64}, r"'pos_embed' is \(1, 17, 64\) in the checkpoint, \(1, 65, 64\)"),
    ({"family": "resnet", "depth": 18, "width": 8}, r"set the keys of config.encoder"),
])
def test_a_checkpoint_of_another_transformer_is_refused(vit_run, labelled, change, message):
    task, _ = open_run(configure("water_weak", labelled, VIT | change),
                              checkpoint.load_model(vit_run[1]).variables)
    with pytest.raises(UserError, match=message):
        task.init(jax.random.key(0))


def test_a_checkpoint_with_another_norm_is_refused(pairs, labelled):
    for theirs, ours, message in ((GROUP, {"width": 8}, r"'bn1/mean' is None in the checkpoint, \(8,\) in the model"),
                                  ({"width": 8}, GROUP, r"'bn1/mean' is \(8,\) in the checkpoint, None in the model")):
        params, stats = shapes(open_run(configure("smoke", pairs, theirs))[0])
        task, _ = open_run(configure("water_weak", labelled, ours), {"params": params, "batch_stats": stats})
        with pytest.raises(UserError, match=message):
            task.init(jax.random.key(0))


@pytest.mark.parametrize("name", ["lars", "lamb", "adamw", "sgd"])
def test_decay_and_adaptation_leave_all_but_the_kernels_of_a_transformer_alone(pairs, name):
    config = configure("smoke", pairs, VIT)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes(open_run(config)[0])[0])
    settings = dataclasses.replace(config.optimizer, name=name, weight_decay=0.1, warmup=0.0, clip_norm=0.0)
    optimizer = make_optimizer(settings, 8, 10)
    updates = jax.jit(lambda p: optimizer.update(jax.tree.map(jnp.zeros_like, p), optimizer.init(p), p)[0])(params)
    moved = {jax.tree_util.keystr(path, simple=True, separator="/"): bool(leaf.any())
             for path, leaf in jax.tree_util.tree_leaves_with_path(updates)}
    assert {path for path, any_moved in moved.items() if any_moved} == {p for p in moved if p.endswith("/kernel")}
    for encoder in ("s1_encoder", "s2_encoder"):
        kernels = {f"{encoder}/{path}/kernel" for path in ("patch_embed", *(
            f"blocks_{n}/{part}" for n in range(2) for part in ("attn_qkv", "attn_proj", "mlp_fc1", "mlp_fc2")))}
        assert {path for path in moved if path.startswith(encoder) and path.endswith("kernel")} == kernels


def test_layer_wise_adaptation_leaves_positions_and_class_token_alone(pairs):
    """LARS scales a kernel's gradient by 0.001 |w| / |g|, here 0.001; all else moves by rate x gradient."""
    config = configure("smoke", pairs, VIT)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes(open_run(config)[0])[0])
    settings = dataclasses.replace(config.optimizer, name="lars", learning_rate=0.5, warmup=0.0, weight_decay=0.0,
                                   clip_norm=0.0)
    optimizer = make_optimizer(settings, 8, 10)
    updates = jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p)[0])(params)
    encoder = updates["s2_encoder"]
    for leaf in (encoder["pos_embed"], encoder["cls_token"], encoder["norm"]["scale"],
                 encoder["blocks_0"]["attn_qkv"]["bias"]):
        np.testing.assert_allclose(leaf, np.full(leaf.shape, -0.5), rtol=1e-6)
    np.testing.assert_allclose(encoder["blocks_0"]["attn_qkv"]["kernel"], np.full((64, 192), -0.0005), rtol=1e-5)


@pytest.mark.parametrize("change, message", [
    ({"family": "swin"}, r"config.encoder.family is 'swin'; valid: croma, resnet, vit"),
    ({"depth": 0}, r"config.encoder.depth is 0; expected at least 1"),
    ({"width": 100}, r"config.encoder.width is 100; expected a multiple of 64, the width of a head"),
    ({"patch": 14}, r"config.encoder.patch is 14; expected 4, 8, 16 or 32"),
    ({"image_size": 30}, r"config.encoder.image_size is 30; expected a multiple of config.encoder.patch, 8"),
    ({"patch": 16, "image_size": 0}, r"config.encoder.image_size is 0; expected a multiple of"),
    ({"patch": 32, "image_size": 224, "crop": 48},
     r"config.augment.crop is 48; expected a multiple of 32, the side of a patch of the encoder, or 0"),
    ({"shift": 8}, r"config.encoder.shift is 8; expected less than config.encoder.patch, 8"),
    ({"family": "croma", "width": 40}, r"config.encoder.width is 40; expected a multiple of 16, the number of heads"),
    ({"family": "croma", "crop": 36}, r"config.augment.crop is 36; expected a multiple of 8, the side of a patch"),
    ({"family": "resnet", "depth": 18, "norm": "layer"}, r"config.encoder.norm is 'layer'; "),
    ({"pool": "cls"}, r"config.encoder.pool is 'cls'; "),
])
def test_a_mistake_is_one_line(change, message):
    change = dict(change)
    augment = {"crop": change.pop("crop", 32)}
    values = pretrain.get_config("smoke").to_dict()
    values["augment"] |= augment
    values["encoder"] |= VIT | change
    with pytest.raises(UserError, match=message) as caught:
        parse(AnyConfig, values)
    assert "\n" not in str(caught.value)
