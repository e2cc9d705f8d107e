"""Makes the workdir of a run from published weights.

    python -m dual_encoder.import_weights --from=B13_rn50_moco_0099_ckpt.pth --layout=ssl4eo_moco --sensor=s2_l1c \
      --out=runs/moco
    python -m dual_encoder.import_weights --from=exported/s2 --layout=timm --sensor=s2_l2a --out=runs/back
    python -m dual_encoder.import_weights --from=joint.pth --layout=decur --sensor=s1_grd --sensor=s2_l1c --out=runs/w
    python -m dual_encoder.import_weights --from=CROMA_base.pt --layout=croma --sensor=s2_l2a --out=runs/croma

docs/import_weights.md describes the layouts, and what to do if the bands differ.
"""

import argparse
import pathlib

from etils import epath

from dual_encoder.command_line.parser import make_parser
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.imagery.sensors import sensor
from dual_encoder.import_weights import source, workdir
from dual_encoder.weights.first_layer import RULES
from dual_encoder.weights.layouts import LAYOUTS
from dual_encoder.weights.normalisation import NAMES


def main() -> None:
    """Imports as the command line says; exit code 2 and one line for a user's mistake."""
    parser = make_parser("dual_encoder.import_weights", __doc__)
    parser.add_argument("--from", dest="files", action="append", required=True, type=pathlib.Path, metavar="FILE",
                        help="file of the weights, or its folder; once, or once for each --sensor")
    parser.add_argument("--layout", required=True, help=f"{', '.join(LAYOUTS)}")
    parser.add_argument("--sensor", dest="sensors", action="append", required=True,
                        help="sensor that the encoder will take, as s2_l1c; twice for an encoder of radar and one of "
                             "optical images")
    parser.add_argument("--out", type=epath.Path, required=True, help="workdir to write")
    parser.add_argument("--bands", default="", help="bands of the sensor that the encoder will take, joined by ','; "
                                                    "all by default; others are left out, as of --adapt=select")
    parser.add_argument("--adapt", choices=RULES, help="take other bands than the weights: select their kernels by "
                                                       "name, or fill those that are not there with mean or zero")
    parser.add_argument("--file-bands", default="", help="bands in the order of the file, joined by ','; by default "
                                                         "those of the layout")
    parser.add_argument("--normalisation", default="", help=f"{', '.join(NAMES)}; by default that of the layout")
    flags = parser.parse_args()
    exit_on_user_error(lambda: _run(flags), flags.debug)


def _run(flags: argparse.Namespace) -> None:
    if len(flags.files) not in (1, len(flags.sensors)):
        raise UserError(f"--from is given {len(flags.files)} times and --sensor {len(flags.sensors)} times; give one "
                        "file for all, or one for each sensor")
    files = flags.files * (len(flags.sensors) // len(flags.files))
    encoders: dict[str, source.Encoder] = {}
    for file, name in zip(files, flags.sensors, strict=True):
        spec = sensor(name)
        if spec.feature in encoders:
            raise UserError(f"--sensor={name}: there is an encoder of '{spec.feature}' already; give one radar and one "
                            "optical sensor")
        if flags.bands:
            spec = spec.subset(flags.bands.split(","))
        encoders[spec.feature] = source.load(source.Wanted(
            file, flags.layout, spec, tuple(filter(None, flags.file_bands.split(","))),
            flags.adapt or ("select" if flags.bands else ""), flags.normalisation))
    parameters = workdir.write(encoders, flags.out)
    for name, one in encoders.items():
        print(f"{name}_encoder: {one.config.family} of depth {one.config.depth} and width {one.config.width}, for "
              f"{one.sensor.name}: {' '.join(one.sensor.bands)}")
        for key in ("weights of", "first layer", "normalisation", "left out", "not in the file"):
            if key in one.facts:
                print(f"  {key}: {one.facts[key]}")
    print(f"{flags.out}: {parameters / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
