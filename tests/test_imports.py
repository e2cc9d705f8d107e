"""The arrows of docs/architecture.md: which room may import which, and in which order the files of a room build up."""

import ast
import pathlib

import pytest

import dual_encoder

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent

# Room -> the rooms of dual_encoder that it may import. A room is a folder, or a file that lies flat. An arrow only ever
# points to a room further up in this table, so there is no circle.
ARROWS = {
    "errors": set(),
    "console": set(),
    "storage": {"errors"},
    "config": {"errors", "storage"},
    "command_line": {"config", "errors"},
    "imagery": {"errors"},
    "runtime": {"errors"},
    "data": {"config", "console", "errors", "imagery", "runtime", "storage"},
    "state": set(),
    "augment": {"config", "imagery"},
    "models": {"config", "errors"},
    "losses": {"config"},
    "optim": {"config"},
    "evaluation": {"errors", "imagery"},
    "workdir": {"config", "console", "data", "errors", "evaluation", "imagery", "runtime", "state", "storage"},
    "tasks": {"augment", "config", "data", "errors", "evaluation", "imagery", "losses", "models", "optim", "runtime",
              "workdir"},
    "report": {"command_line", "config", "console", "errors", "evaluation", "imagery", "storage", "workdir"},
    "training": {"config", "console", "data", "errors", "evaluation", "optim", "runtime", "state", "storage", "tasks",
                 "workdir"},
    "plan": {"command_line", "config", "data", "errors", "optim", "runtime", "storage", "tasks", "training"},
    "weights": {"config", "errors", "imagery", "models", "storage"},
    "export": {"command_line", "config", "data", "errors", "imagery", "models", "storage", "tasks", "weights",
               "workdir"},
    "import_weights": {"command_line", "config", "data", "errors", "imagery", "models", "state", "storage", "tasks",
                       "weights", "workdir"},
    "experiment": {"command_line", "config", "console", "data", "errors", "evaluation", "imagery", "report", "runtime",
                   "storage", "tasks", "training", "workdir"},
    "inference": {"config", "data", "errors", "export", "imagery", "models", "tasks", "weights", "workdir"},
    "calibrate": {"command_line", "console", "data", "errors", "evaluation", "imagery", "inference", "report",
                  "runtime", "storage", "tasks", "workdir"},
    "predict": {"command_line", "console", "errors", "evaluation", "imagery", "inference", "runtime", "storage",
                "tasks", "workdir"},
    "sketch_map": {"command_line", "console", "errors", "evaluation", "imagery", "inference", "predict", "runtime"},
    "reproduce": {"command_line", "config", "console", "errors", "experiment", "runtime", "tasks",
                  "training", "workdir"},
    "data_prep": {"command_line", "console", "data", "errors", "imagery", "runtime", "storage"},
    "embed": {"command_line", "console", "data", "data_prep", "errors", "imagery", "inference", "predict", "runtime",
              "storage"},
    "search": {"command_line", "console", "data", "embed", "errors", "evaluation", "imagery", "inference", "storage"},
    "train": {"command_line", "config", "errors", "report", "runtime", "storage", "tasks", "training"},
    "__main__": {"command_line", "errors"},
    "main": {"train"},
}

# Room -> its files from the bottom up: a file may import files of its own room that stand before it.
FILES = {
    "command_line": "parser config_file config_help",
    "storage": "paths atomic files lock sums",
    "imagery": "sensors radiometry s2_offset plausibility file_kinds tiff_header gdal grid raster "
               "geotiff_keys geotiff_json geotiff_statements geotiff_images normalise palette pictures",
    "runtime": "cgroup cores limits backend mesh heap compilation_cache compiling stop_request processes",
    "data": "subsets config order batch_memory labels digests manifest_form manifest shapes tf_message tf_example "
            "record_layout index tfrecord records selection overlap batches",
    "models": "convolution attention features resnet vit croma encoder pyramid decoders fusion dual_encoder "
              "segmentation classification",
    "losses": "shapes tiles log_sum_exp softplus_sum contrastive correlation segmentation objective with_negatives "
              "without_negatives choices",
    "optim": "schedules optimizer",
    "evaluation": "per_image comparison table embedded galleries retrieval embedding_space segmentation worst_images "
                  "classification single_sensors knn linear_probe probes segmentation_probe calibration conformal "
                  "area_errors",
    "tasks": "task sizing micro_batches bands downstream probe pretrain windows segment classify checks sources "
             "resolve build",
    "workdir": "digests folder sinks metrics checkpoint_folder checkpoint scores calibration",
    "report": "curves html old_scores run_facts run_files run_time sections calibration page "
              "comparison __main__",
    "training": "step evaluate frozen probe hooks selection loop run",
    "plan": "chips hlo flops step_program table search remedies __main__",
    "weights": "timm_keys files layouts published first_layer dofa normalisation",
    "import_weights": "source workdir __main__",
    "export": "folder inputs network source narrow_resnet card_code card_calibration samples card graph shipped timm "
              "huggingface torchgeo_weights torchgeo preparation terratorch_backbone terratorch torchgeo_bench_model "
              "torchgeo_bench pangaea_encoder pangaea stablehlo saved_model onnx_graph onnx stored_model npz orbax "
              "formats write check __main__",
    "sketch_map": "labels fit __main__",
    "embed": "table places raster card sources scenes write __main__",
    "search": "nearest approximate index query output projection page __main__",
    "experiment": "plan cells leaks work beside results analysis figures panels tables page __main__",
    "inference": "facts images segmenter frozen_maps exported encoder",
    "predict": "scene description windows gaps aoi permanent layers part strips write hectares polygons areas preview "
               "mosaic listed one_map flags __main__",
}


def modules(path):
    """The modules of this project that a file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("dual_encoder", "data_prep", "configs", "main", "tests", "benchmarks"):
                yield name


def place(module):
    """The room and the file within it of a dotted name; the file is '' for a flat module or an unknown one."""
    parts = module.split(".")
    if parts[0] != "dual_encoder":
        return parts[0], ""
    room = parts[1] if len(parts) > 1 else "__init__"
    return room, parts[2] if room in FILES and len(parts) > 2 else ""


def sources():
    yield ROOT / "main.py"
    for folder in ("dual_encoder", "data_prep"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_the_table_of_arrows_has_no_circle():
    above = set()
    for room, arrows in ARROWS.items():
        assert arrows <= above, f"{room} points down to {sorted(arrows - above)}"
        above.add(room)


def test_the_tables_name_every_file():
    for room, files in FILES.items():
        there = {path.stem for path in (ROOT / "dual_encoder" / room).glob("*.py")} - {"__init__"}
        assert set(files.split()) == there, room
    flat = {path.stem for path in (ROOT / "dual_encoder").glob("*.py")} - {"__init__"}
    assert flat == set(ARROWS) - set(FILES) - {"data_prep", "main"} and len(flat) <= 9


def test_imports_follow_the_arrows():
    wrong = []
    for path in sources():
        room, file = place(module_of(path))
        if room == "__init__" or file == "__init__":
            continue
        for name in modules(path):
            other, other_file = place(name)
            if other == room and room in FILES:
                before = FILES[room].split()[:FILES[room].split().index(file)]
                allowed = other_file in before
            else:
                allowed = other in (room, *ARROWS[room]) or name in ("dual_encoder", "dual_encoder.__version__")
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_few_files_own_orbax_and_one_owns_the_mesh():
    for path in sources():
        text = path.read_text()
        if path.name not in ("checkpoint.py", "checkpoint_folder.py", "orbax.py"):
            assert "import orbax" not in text, path
        if path.name != "mesh.py":
            assert "make_mesh" not in text and "jax.distributed" not in text, path


def test_models_losses_and_evaluation_know_nothing_of_devices():
    for name in ("models", "losses", "evaluation", "augment", "tasks"):
        for path in sources():
            if place(module_of(path))[0] == name and path.name != "tiles.py":  # tiles.py gets the mesh as an argument
                assert "shard_map" not in path.read_text(), path
                assert not any(word in path.read_text() for word in ("process_index", "axis_name", "pmap")), path


def test_no_file_hides_many_reasons():
    for path in sources():
        assert len(path.read_text().splitlines()) <= 450, path


def test_functions_fit_on_a_screen_and_classes_say_what_they_are():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
            if isinstance(node, ast.ClassDef):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                assert not first.startswith(("Attributes:", "Args:")), f"{path}: {node.name}"


def test_a_module_that_has_moved_names_its_new_place():
    with pytest.raises(ImportError, match="dual_encoder.trainer has moved to dual_encoder.training.loop; change"):
        from dual_encoder import trainer  # noqa: F401
    for new in dual_encoder._MOVED.values():
        assert (ROOT / "dual_encoder" / f"{new.replace('.', '/')}.py").exists(), new
