"""Writes an encoder or a fine-tuned model of a run in a format that other tools load.

    python -m dual_encoder.export --workdir=runs/pretrain --sensor=s2 --out=exported/s2
    python -m dual_encoder.export --workdir=runs/water --sensor=s1 --format=onnx --out=exported/water
    python -m dual_encoder.export --check exported/s2      loads an export in its own runtime and compares the outputs

docs/weights.md describes the formats. A new one is a file of its own, and a line in `FORMATS` of formats.py.
"""

import subprocess
import sys

from dual_encoder.command_line.parser import make_parser
from dual_encoder.errors import exit_on_user_error
from dual_encoder.export.check import LIMIT, check, exports_in
from dual_encoder.export.formats import FORMATS
from dual_encoder.export.inputs import INPUTS
from dual_encoder.export.source import Source
from dual_encoder.export.write import export, results_of
from dual_encoder.workdir.checkpoint import load_model


def main() -> None:
    """Exports as the command line says; exit code 2 and one line for a user's mistake, 1 for a failed check."""
    parser = make_parser("dual_encoder.export", __doc__)
    parser.add_argument("--workdir", help="folder of the training run")
    parser.add_argument("--sensor", help="which images: s1, s2 or both")
    parser.add_argument("--out", help="folder to write; an earlier export in it is replaced")
    parser.add_argument("--format", choices=sorted(FORMATS), default="timm", help="default: %(default)s")
    parser.add_argument("--input", choices=INPUTS, default="physical",
                        help="what the graph of stablehlo, saved_model and onnx takes; default: %(default)s")
    parser.add_argument("--size", type=int, default=0, help="side of the images in pixels; as in training by default")
    parser.add_argument("--data", default="", help="data set for the sample images; that of the run by default")
    parser.add_argument("--step", type=int,
                        help="checkpoint to take; by default the one that the run chose, or else the newest")
    parser.add_argument("--check", metavar="FOLDER", help="check an export, or all in a folder, instead of writing one")
    flags = parser.parse_args()
    if missing := [f"--{name}" for name in ("workdir", "sensor", "out") if not (flags.check or getattr(flags, name))]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")

    def run() -> None:
        if flags.check:
            _check(flags.check)
            return
        source = Source(load_model(flags.workdir, flags.step), flags.sensor, flags.input, flags.size,
                        flags.workdir)
        exported = export(source, flags.out, flags.format, flags.data, results_of(flags.workdir))
        for path in exported.paths:
            print(path)
        if exported.note:
            print(f"note: {exported.note}")

    exit_on_user_error(run, flags.debug)


def _check(folder: str) -> None:
    """Prints the result of each export; exit code 1 unless all were compared and agree."""
    exports = exports_in(folder)
    if len(exports) > 1:  # each in a process of its own: TensorFlow, PyTorch and others do not get along in one
        sys.exit(max(subprocess.run([sys.executable, "-m", "dual_encoder.export", f"--check={export}"]).returncode
                     for export in exports))
    result = check(exports[0])
    print(f"{result.folder}: {len(result.files)} files, all sound")
    for output, difference in result.differences.items():
        verdict = "" if difference <= LIMIT else f"  FAILED, above {LIMIT:g}"
        print(f"  {result.format:<12} {output:<16} max |theirs - ours| / max |ours| = {difference:.1e}{verdict}")
    if result.reason:
        print(f"  {result.format or 'export':<12} not checked: {result.reason}")
    sys.exit(0 if result.passed else 1)


if __name__ == "__main__":
    main()
