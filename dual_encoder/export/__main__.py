"""Writes one encoder of a run as a timm folder.

    python -m dual_encoder.export --workdir=runs/pretrain --sensor=s2 --out=exported/s2
"""

import argparse

from dual_encoder.errors import exit_on_user_error
from dual_encoder.export.timm import export
from dual_encoder.workdir.checkpoint import load_model


def main() -> None:
    """Exports as the command line says; exit code 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m dual_encoder.export", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of the training run")
    parser.add_argument("--sensor", required=True, help="which encoder: s1 or s2")
    parser.add_argument("--out", required=True, help="folder to write; an earlier export in it is replaced")
    parser.add_argument("--step", type=int, help="checkpoint to take; the newest by default")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args()

    def run() -> None:
        model = load_model(flags.workdir, flags.step)
        for path in export(model, flags.sensor, flags.out):
            print(path)
        encoder = model.variables["params"][f"{flags.sensor}_encoder"]
        if "conv1" in encoder and (width := encoder["conv1"]["kernel"].shape[-1]) != 64:
            print(f"note: the stem is {width} channels wide; timm's local-dir loader only takes 64. The card shows how "
                  "to load it")

    exit_on_user_error(run, flags.debug)


if __name__ == "__main__":
    main()
