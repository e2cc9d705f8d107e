"""Makes a small run of an earlier version, with its data: tests/golden/run_COMMIT.tar.xz, for test_earlier_versions.py.

    git worktree add OLD COMMIT && cd OLD && python ../tests/golden/make_run.py COMMIT ../tests/golden

The run is one that was killed after step 2 of 4: the checkpoint of step 4 is deleted, its losses stay in metrics.jsonl.
"""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

sys.path.insert(0, ".")
from tests import conftest  # noqa: E402  # of the earlier version

OPTIONS = {"schedule.steps": 4, "schedule.log_every": 1, "schedule.checkpoint_every": 2, "schedule.keep": 3,
           "encoder.width": 4, "encoder.norm": "group", "augment.crop": 20, "batch_size": 8,
           "projection.hidden": 8, "projection.dim": 8,
           "data.split": "train", "data.eval_split": "test", "data.threads": 1}


def make(commit: str, out: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        conftest._write_dataset(folder / "data", train=8, test=4, size=20, shards=1)
        command = [sys.executable, "main.py", "--config=configs/pretrain.py:smoke", f"--workdir={folder / 'run'}",
                   f"--config.data.dir={folder / 'data'}",
                   *(f"--config.{key}={value}" for key, value in OPTIONS.items())]
        subprocess.run(command, check=True)
        for name in ("tensorboard", "evaluation", "report.html", "checkpoints/4", "digests/4.json", "lock"):
            path = folder / "run" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        with tarfile.open(out / f"run_{commit}.tar.xz", "w:xz") as archive:
            archive.add(folder / "data", "data")
            archive.add(folder / "run", "run")


if __name__ == "__main__":
    make(sys.argv[1], pathlib.Path(sys.argv[2]))
