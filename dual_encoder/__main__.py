"""All commands under one name: `dual-encoder COMMAND ...`, or `python -m dual_encoder COMMAND ...`."""

import runpy
import sys

from dual_encoder.command_line.parser import VERSION
from dual_encoder.errors import nearest

# Command -> the module that `python -m` runs, and what it does.
COMMANDS = {
    "sample": ("data_prep", "get 32 real pairs of BigEarthNet"),
    "describe": ("data_prep", "describe a folder of own GeoTIFFs"),
    "build": ("data_prep", "turn raw images into a data set"),
    "inspect": ("data_prep", "show what a data set holds"),
    "stats": ("data_prep", "compute the statistics of the bands"),
    "verify": ("data_prep", "check every record of a data set"),
    "overlap": ("data_prep", "find records that two data sets, or splits, share"),
    "train": ("dual_encoder.train", "pre-train, fine-tune, evaluate or probe: --config=configs/pretrain.py"),
    "predict": ("dual_encoder.predict", "map whole scenes with a fine-tuned run"),
    "calibrate": ("dual_encoder.calibrate", "measure how sure a run may be, and how far its areas are off"),
    "sketch-map": ("dual_encoder.sketch_map", "map a scene from a few labelled polygons"),
    "embed": ("dual_encoder.embed", "write the vectors of many images"),
    "search": ("dual_encoder.search", "find images that are alike"),
    "report": ("dual_encoder.report", "write the page of a run"),
    "plan": ("dual_encoder.plan", "say whether a configuration fits a machine"),
    "experiment": ("dual_encoder.experiment", "compare initialisations on tasks, with intervals"),
    "reproduce": ("dual_encoder.reproduce", "make a run again and compare the bits"),
    "export": ("dual_encoder.export", "write the weights for other tools"),
    "import-weights": ("dual_encoder.import_weights", "make the workdir of a run from published weights"),
}


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(VERSION)
    elif name in ("--help", "-h"):
        print("usage: dual-encoder COMMAND ...\n")
        print("\n".join(f"  {command:16s}{text}" for command, (_, text) in COMMANDS.items()))
        print("\ndual-encoder COMMAND --help says more.")
    elif name not in COMMANDS:
        print(f"error: unknown command '{name}'; {nearest(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        module = COMMANDS[name][0]
        kept = 1 if module == "data_prep" else 2  # data_prep reads the name itself
        sys.argv = [f"dual-encoder {name}", *sys.argv[kept:]]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
