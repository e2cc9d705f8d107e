"""The arrows of docs/architecture.md: who may import whom."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent

# room -> rooms of dual_encoder that it may import. A folder is one room.
ALLOWED = {
    "errors": set(), "atomic": {"errors"}, "sensors": {"errors"}, "quicklook": {"sensors"}, "config": {"errors"},
    "mesh": {"errors"}, "console": set(), "lock": set(),
    "files": {"errors"}, "tf_example": {"errors"}, "dataset_info": {"errors", "files", "sensors"},
    "layout": set(), "tfrecord": {"dataset_info", "errors", "files", "layout", "tf_example"}, "order": {"errors"},
    "memory": set(),
    "input": {"console", "dataset_info", "errors", "files", "memory", "order", "sensors", "tfrecord"},
    "metrics": {"atomic"},
    "losses": {"config"}, "optim": {"config"}, "augment": {"config", "sensors"},
    "models": {"config", "errors"},
    "evaluation": {"errors", "sensors", "quicklook"},
    "train_state": {"input", "sensors"},
    "tasks": {"models", "losses", "augment", "evaluation", "config", "errors", "input", "order", "sensors"},
    "workdir": {"atomic", "config", "console", "dataset_info", "errors", "lock", "sensors"},
    "checkpoint": {"atomic", "console", "errors", "mesh", "sensors", "train_state", "workdir"},
    "hooks": {"atomic", "checkpoint", "console", "errors", "mesh", "metrics", "train_state", "workdir"},
    "curves": set(), "report": {"atomic", "curves", "errors", "metrics", "quicklook"},
    "trainer": {"checkpoint", "config", "console", "dataset_info", "errors", "hooks", "input", "mesh", "metrics",
                "optim", "report", "train_state", "workdir"},
    "export": {"checkpoint", "errors", "sensors", "models"},
    "data_prep": {"atomic", "errors", "lock", "sensors", "tfrecord", "quicklook"},
    "command_line": {"config", "errors"}, "hlo": set(), "flops": set(), "chips": {"errors"},
    "step_program": {"config", "dataset_info", "errors", "flops", "hlo", "input", "mesh", "optim", "sensors", "tasks",
                     "train_state", "trainer"},
    "plan_figures": {"chips", "hlo", "step_program"},
    "plan": {"atomic", "chips", "command_line", "config", "errors", "input", "mesh", "plan_figures", "step_program"},
    "compilation_cache": set(), "heap": set(),
    "main": {"checkpoint", "command_line", "compilation_cache", "config", "errors", "heap", "hooks", "input",
             "mesh", "report", "sensors", "tasks", "train_state", "trainer", "workdir"},
}


def imported_rooms(path):
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "dual_encoder" and len(parts) > 1 and parts[1] != "__version__":
                rooms.add(parts[1])
            elif parts[0] in ("data_prep", "configs", "main", "tests", "benchmarks"):
                rooms.add(parts[0])
    return rooms


def room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "dual_encoder" else parts[0]


def sources():
    yield ROOT / "main.py"
    for folder in ("dual_encoder", "data_prep"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_imports_follow_the_arrows():
    wrong = []
    for path in sources():
        if room(path) == "__init__":
            continue
        extra = imported_rooms(path) - ALLOWED[room(path)] - {room(path)}
        wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in sorted(extra)]
    assert not wrong, "\n".join(wrong)


def test_one_module_owns_orbax_and_one_owns_the_mesh():
    for path in sources():
        text = path.read_text()
        if path.name != "checkpoint.py":
            assert "import orbax" not in text, path
        if room(path) != "mesh":
            assert "make_mesh" not in text and "jax.distributed" not in text, path


def test_models_losses_and_evaluation_know_nothing_of_devices():
    for name in ("models", "losses", "evaluation", "augment", "tasks"):
        for path in sources():
            if room(path) == name and path.name != "tiles.py":  # it shards the chunked loss over a mesh it is given
                assert "shard_map" not in path.read_text(), path
                assert not any(word in path.read_text() for word in ("process_index", "axis_name", "pmap")), path


def test_no_file_hides_many_reasons():
    for path in sources():
        assert len(path.read_text().splitlines()) <= 420, path
