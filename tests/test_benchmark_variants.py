"""Every benchmark: raw files in its exact layout, the documented build, and its variant on the data set."""

import importlib
import pathlib

import jax
import pytest
from etils import epath

from dual_encoder.config import parse
from dual_encoder.data.manifest import load_info
from dual_encoder.tasks.build import AnyConfig, build
from dual_encoder.training.run import run
from tests import commands, runs
from tests.fuzz import raw_sets

pytestmark = pytest.mark.slow

CHIPS = [("Spain_1", "train"), ("India_2", "train"), ("Ghana_3", "valid"), ("USA_4", "test"), ("Bolivia_5", "bolivia")]


def terramesh(raw):
    for split in ("train", "val"):
        raw_sets.terramesh(raw, split)


# Folder of the data set -> importer, options of the build, and the writer of its raw files.
BUILDS = {
    "sen1floods11": ("sen1floods11", (), lambda raw: raw_sets.sen1floods11(raw, CHIPS)),
    "dfc2020": ("dfc2020", (), lambda raw: raw_sets.dfc2020(raw, 2)), "terramesh": ("terramesh", (), terramesh),
    "eurosat_rgb": ("image_folders", ("--name=eurosat_rgb",), lambda raw: raw_sets.eurosat_rgb(raw, 5)),
    "so2sat": ("so2sat", (), lambda raw: raw_sets.so2sat(raw, 6)),
    "geotiff": ("geotiff", (), lambda raw: raw_sets.geotiff_image_labels(raw, 9))}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that builds the data set of a folder `data/s1s2_tiles/NAME/1.0.0`, once; returns that folder."""
    base = tmp_path_factory.mktemp("benchmarks")

    def make(folder):
        importer, options, write = BUILDS[pathlib.PurePath(folder).parts[2]]
        raw = base / "raw" / importer
        if not (base / folder).exists():
            raw.mkdir(parents=True)
            write(raw)
            words = ["build", f"--importer={importer}", f"--raw={raw}", "--data_dir=data", "--kind=tiles", *options]
            done = commands.run("-m", "data_prep", *words, "--workers=1", cwd=base)
            assert done.returncode == 0, done.stdout + done.stderr
        return base / folder
    return make


def values_of(file, variant, built):
    """The values of a variant with its own data folder, made small; the folder exists after this."""
    values = importlib.import_module(f"configs.{file}").get_config(variant).to_dict()
    values["data"]["dir"] = str(built(values["data"]["dir"]))
    if file == "probe":
        return values | {"neighbours": 2}
    values["encoder"] |= runs.VIT | {"dtype": "float32"}
    values["schedule"] |= {"steps": 1, "epochs": 0, "log_every": 1, "checkpoint_every": 0}
    values["augment"]["crop"] = min(values["augment"]["crop"], 32)
    return values | {"batch_size": 2} | ({"decoder_width": 4} if file == "finetune" else {})


@pytest.mark.parametrize("file, variant, splits", [
    ("finetune", "flood_sen1floods11", "train validation test bolivia"),
    ("finetune", "land_cover_dfc2020", "validation test"), ("finetune", "land_cover_terramesh", "train validation"),
    ("classify", "eurosat", "train test"), ("classify", "so2sat", "train test"), ("classify", "own", "train test")])
def test_a_variant_trains_on_the_data_set_of_its_benchmark(built, tmp_path, file, variant, splits):
    values = values_of(file, variant, built)
    assert set(load_info(epath.Path(values["data"]["dir"])).shards) == set(splits.split())
    run(parse(AnyConfig, values), runs.one_device(), epath.Path(tmp_path / "run"))
    assert (tmp_path / "run/evaluation/scores.json").exists() and values["data"]["eval_split"] in splits.split()


def regions(records):
    return {records.place(row)[1].split("_")[0] for row in range(len(records))}


def test_bolivia_is_held_out_and_regions_make_folds(built):
    values = values_of("finetune", "flood_sen1floods11", built)
    values["data"]["eval_split"] = "bolivia"
    opened = build(parse(AnyConfig, values), runs.one_device())
    assert regions(opened.records) == {"Spain", "India"} and regions(opened.eval_records) == {"Bolivia"}
    values["data"]["split"] = "train+validation+test"
    for fold in range(4):
        values["data"]["subset"] |= {"folds": 4, "fold": fold, "groups": "event"}
        opened = build(parse(AnyConfig, values), runs.one_device())
        learnt, held = regions(opened.records), regions(opened.eval_records)
        assert len(held) == 1 and learnt | held == {"Spain", "India", "Ghana", "USA"} and not learnt & held


@pytest.mark.parametrize("variant, sensors", [
    ("eurosat", ("s1_vh", "s2_rgb")), ("so2sat", ("s1_grd", "so2sat_s2")), ("own", ("s1_grd", "s2_l2a"))])
def test_a_probe_reads_the_data_set_of_its_benchmark(built, write_dataset, tmp_path, variant, sensors):
    runs.fit(runs.configure(write_dataset(sensors=sensors)), tmp_path / "pretrain", jax.devices()[:1])
    values = values_of("probe", variant, built) | {"init_from": str(tmp_path / "pretrain")}
    run(parse(AnyConfig, values), runs.one_device(), epath.Path(tmp_path / "probe"))
    assert (tmp_path / "probe/evaluation/scores.json").exists()
