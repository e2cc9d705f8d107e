"""Writes one static page about a run, or one that compares runs.

    python -m dual_encoder.report runs/pretrain                                # runs/pretrain/report.html
    python -m dual_encoder.report runs/a runs/b runs/c --out=comparison.html   # their differences, scores and curves
"""

import pathlib

from dual_encoder.command_line.parser import make_parser
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.report.comparison import write_comparison
from dual_encoder.report.page import write_report


def main() -> None:
    """Writes the page that the command line names. A user's mistake gives one line and exit code 2."""
    parser = make_parser("dual_encoder.report", __doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="workdir; one: RUN/report.html, several: a comparison")
    parser.add_argument("--workdir", help="the same as one RUN")
    parser.add_argument("--out", default="comparison.html", help="file of the comparison (default: %(default)s)")
    flags = parser.parse_args()
    exit_on_user_error(lambda: print(_write([*flags.runs, *filter(None, [flags.workdir])], flags.out)), flags.debug)


def _write(runs: list[str], out: str) -> pathlib.Path:
    if not runs:
        raise UserError("no run is named; give one workdir for its report, or several for a comparison")
    return write_report(runs[0]) if len(runs) == 1 else write_comparison(runs, out)


if __name__ == "__main__":
    main()
