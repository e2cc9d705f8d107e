"""Makes a run again and says whether the bits of its scores agree.

    python -m dual_encoder.reproduce runs/flood/report.html                   of an experiment: its quickest run
    python -m dual_encoder.reproduce runs/flood/report.html --cell=NAME       the run of that name, as in results.csv
    python -m dual_encoder.reproduce runs/pretrain/report.html                of any other run: the run itself

Exit code 0: all scores are the same to the last bit. 1: some differ, and a line names each.
"""

import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from etils import epath

from dual_encoder.command_line.parser import make_parser
from dual_encoder.config import parse
from dual_encoder.console import say
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.experiment.work import digest
from dual_encoder.runtime import compilation_cache, heap, mesh
from dual_encoder.storage import paths
from dual_encoder.tasks.build import AnyConfig
from dual_encoder.training.run import run
from dual_encoder.workdir.folder import read_json, versions
from dual_encoder.workdir.scores import read_scores


def main() -> None:
    """Makes the run that the command line names again. A user's mistake gives one line and exit code 2."""
    parser = make_parser("dual_encoder.reproduce", __doc__)
    parser.add_argument("report", type=paths.local, help="report.html, or the folder that holds it")
    parser.add_argument("--cell", default="", help="a run of an experiment")
    flags = parser.parse_args()
    exit_on_user_error(lambda: sys.exit(_main(flags.report, flags.cell)), flags.debug)


def _main(report: pathlib.Path, cell: str) -> int:
    folder = report if report.is_dir() else report.parent
    workdir = folder if (folder / "run.json").exists() else _cell(folder, cell)
    facts, values = (read_json(epath.Path(workdir) / name) for name in ("run.json", "config.json"))
    say(f"making '{workdir}' again: {facts['task']}, data {facts['dataset']['fingerprint'][:12]}")
    for name, version in versions().items():
        if facts["versions"].get(name) != version:
            say(f"  {name} is {version} now, it was {facts['versions'].get(name)}")
    heap.keep()
    compilation_cache.start()
    with tempfile.TemporaryDirectory() as again:
        config: AnyConfig = parse(AnyConfig, values, stored=True)
        run(config, mesh.make(), epath.Path(again))
        data = read_json(epath.Path(again) / "run.json")["dataset"]["fingerprint"]
        if data != facts["dataset"]["fingerprint"]:
            raise UserError(f"the data of '{workdir}' have the fingerprint {data[:12]} now, it was "
                            f"{facts['dataset']['fingerprint'][:12]}; restore the data set")
        old, new = digest(workdir), digest(pathlib.Path(again))
        if old == new:
            say(f"the bits agree: scores and tables of images have the digest {old[:12]}")
            return 0
        before, after = read_scores(workdir), read_scores(again)
    _show(before, after)
    return 1


def _cell(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the workdir of a run of an experiment; without a name, of the quickest one that is scored."""
    notes = {str(path.parent.relative_to(folder)): json.loads(path.read_bytes())
             for path in sorted(folder.glob("*/**/cell.json"))}
    done = {cell: note for cell, note in notes.items() if note["state"] == "done"}
    if not done:
        raise UserError(f"'{folder}' holds no run that is done; give the report.html of a run or of an experiment")
    if name and name not in done:
        raise UserError(f"--cell is '{name}', which is no run of '{folder}' that is done; results.csv names them")
    scored = [cell for cell in done if cell.startswith("cells/")] or list(done)
    return folder / (name or min(scored, key=lambda cell: done[cell]["seconds"]))


def _show(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    say(f"{len(changed)} of {len(before)} scores differ" + ("" if changed else ", the tables of images do"))
    for key in changed:
        say(f"  {key}: {before.get(key)} then, {after.get(key)} now")


if __name__ == "__main__":
    main()
