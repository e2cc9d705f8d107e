"""Strict JAX, eight simulated devices, real data through S1S2_DATA."""

import hashlib
import json
import os
import pathlib
import signal
import struct
from unittest import mock

import jax
import jaxtyping
import numpy as np
import pytest
from absl import flags
from tensorflow_datasets.proto import tf_example_pb2

from dual_encoder.data import tfrecord
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import MANIFEST, DatasetInfo, TensorInfo
from dual_encoder.imagery.sensors import before, sensor
from dual_encoder.models import resnet
from dual_encoder.runtime import compilation_cache

# The losses check the shapes of their arguments at every call; nothing has imported them yet.
jaxtyping.install_import_hook([f"dual_encoder.losses.{name}" for name in ("contrastive", "correlation")],
                              "beartype.beartype")
# Most of a test's time is compilation; unoptimised code computes the same numbers. Commands under test inherit it.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
# A shell starts jobs in the background with SIGINT ignored, and commands under test would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
flags.FLAGS.mark_as_parsed()  # Grain reads its flags in worker processes; main.py parses them
# Also on a machine with an accelerator, unless it is asked for (test_accelerator.py).
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU has to hold commands under test, too
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiled programs stay for the next run, and for that of the next clone. Commands under test use them, too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = compilation_cache.usual("tests")
    for name, value in (("jax_compilation_cache_dir", str(programs)), ("jax_compilation_cache_max_size", 1 << 29),
                        ("jax_persistent_cache_min_compile_time_secs", 0.05)):
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    compilation_cache.mend(programs)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real Sentinel data; skips where S1S2_DATA does not name one."""
    folder = os.environ.get("S1S2_DATA", "")
    if not pathlib.Path(folder, "README.md").is_file() or not folder:
        pytest.skip(f"S1S2_DATA='{folder}' is not the folder of real Sentinel data")
    return pathlib.Path(folder).resolve()


@pytest.fixture(scope="module")
def short_resnet():
    """A ResNet-18 has one block in each of its four layers: half the program, with all that a ResNet consists of."""
    with mock.patch.dict(resnet._LAYOUTS, {18: (False, (1, 1, 1, 1))}):
        yield


@pytest.fixture(scope="session")
def write_dataset(tmp_path_factory):
    """Returns a function that writes a small data set folder (shards, index, manifest) without TensorFlow."""
    return lambda **options: _write_dataset(tmp_path_factory.mktemp("written") / "data", **options)


def _write_dataset(folder: pathlib.Path, *, train: int = 16, test: int = 8, size: int = 40, shards: int = 2,
                   places: int | None = None, labels: bool | str = False, two_dates: bool = False,
                   sensors: tuple[str, str] = ("s1_grd", "s2_l2a"), seed: int = 0) -> pathlib.Path:
    """Writes `train` and `test` records whose two images share a pattern, so that pairs can be told apart.

    places: number of distinct places per split (None: one per record); labels: adds a label that the radar shows:
    of pixels (True), or 'image_class' or 'image_classes'; places of train and test then differ. two_dates: adds the
    images before a change, which show another pattern.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    specs = {"s1": sensor(sensors[0]), "s2": sensor(sensors[1])}
    if two_dates:
        specs |= {before(feature): spec for feature, spec in specs.items()}
    entries = {}
    for split, count in (("train", train), ("test", test)):
        entries[split], rows, number = [], [], 0
        for shard in range(shards):
            file = f"s1s2_pairs-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
            blob = b""
            for _ in range(count // shards + (shard < count % shards)):
                place = f"{split if isinstance(labels, str) else 'place'}{number % (places or count)}"
                payload = _example(specs, f"{split}{number:03d}", place, size, labels, rng)
                header = struct.pack("<Q", len(payload))
                rows.append((shard, len(blob) + 12, len(payload)))
                blob += header + struct.pack("<I", tfrecord.masked_crc32c(header)) + payload
                blob += struct.pack("<I", tfrecord.masked_crc32c(payload))
                number += 1
            (folder / file).write_bytes(blob)
            entries[split].append({"file": file, "bytes": len(blob), "records": sum(r[0] == shard for r in rows),
                                   "sha256": hashlib.sha256(blob).hexdigest()})
        np.save(folder / f"{split}.index.npy", np.array(rows, tfrecord.INDEX_DTYPE))
    tensors = {name: TensorInfo(spec.dtype, (size, size, len(spec.bands))) for name, spec in specs.items()}
    kind = labels if isinstance(labels, str) else "pixel_classes"
    label = LabelSpec(kind, ("dry", "wet")) if labels else None
    if label:
        tensors["label"] = TensorInfo(label.dtype, label.shape(size))
    fingerprint = hashlib.sha256("".join(e["sha256"] for es in entries.values() for e in es).encode()).hexdigest()
    info = DatasetInfo("s1s2_pairs", "synthetic", "1.0.0", specs, tensors, label,
                       {"importer": "synthetic", "licence": "none"}, entries, fingerprint)
    (folder / MANIFEST).write_text(json.dumps(info.to_json()))
    return folder


def _example(specs, name, place, size, labels, rng) -> bytes:
    def draw():
        return np.kron(rng.normal(size=(5, 5)), np.ones((size // 5, size // 5)))[..., None]

    pattern = draw()
    earlier = draw() if "s1_before" in specs else pattern
    images = {}
    for feature, spec in specs.items():
        mean, std, limits = np.array(spec.mean), np.array(spec.std), np.iinfo(spec.dtype)
        seen = earlier if feature.endswith("_before") else pattern
        values = mean + std * (seen + 0.1 * rng.normal(size=(size, size, len(spec.bands))))
        images[feature] = np.clip(values, limits.min + 1, limits.max).astype(spec.dtype)
    wet = pattern[..., 0] > 0
    if labels == "image_class":
        images["label"] = np.int32(wet.mean() > 0.5)
    elif labels == "image_classes":
        images["label"] = np.array([(~wet).mean() > 0.4, wet.mean() > 0.4], np.uint8)
    elif labels:
        images["label"] = wet.astype(np.uint8)
    example = tf_example_pb2.Example()
    for feature, image in images.items():
        example.features.feature[feature].bytes_list.value.append(image.tobytes())
    for feature, text in (("id", name), ("location_id", place), ("source", "synthetic")):
        example.features.feature[feature].bytes_list.value.append(text.encode())
    for feature in ("s1_time", "s2_time"):
        example.features.feature[feature].int64_list.value.append(1_500_000_000)
    return example.SerializeToString(deterministic=True)
