"""Writes WORKDIR/report.html: one static page about a run.

    python -m dual_encoder.report --workdir=runs/pretrain
"""

import argparse

from dual_encoder.errors import exit_on_user_error
from dual_encoder.report.page import write_report


def main() -> None:
    """Writes the report that the command line names. A user's mistake gives one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m dual_encoder.report",
                                     description="Writes WORKDIR/report.html: one static page about a run.")
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args()
    exit_on_user_error(lambda: print(write_report(flags.workdir)), flags.debug)


if __name__ == "__main__":
    main()
