"""python -m tests.fuzz PART NUMBERS...: runs trials and prints faults and a table; exit code 1 if there is a fault.

PART is `raw` (raw files of every layout), `bombs`, `data_set`, `workdir=DIR` or `export=DIR`. NUMBERS: FIRST LAST. The
trials fork this process, so it must not start a thread; a test, which has started JAX, runs it as a command.
"""

import pathlib
import sys
import tempfile

from tests.fuzz import own_attack
from tests.fuzz.raw_attack import RawAttack
from tests.fuzz.report import Counts


def main(part: str, first: int, last: int, mutations: tuple[str, ...] = ()) -> Counts:
    """Runs the trials FIRST to LAST - 1 of a part; `mutations`: only these; () = all. Returns their counts."""
    kind, _, folder = part.partition("=")
    with tempfile.TemporaryDirectory() as name:
        work, counts = pathlib.Path(name), Counts()
        if kind in ("raw", "bombs"):
            attack = RawAttack(work)
            trials = attack.bombs() if kind == "bombs" else [(name, i) for i in range(first,
                                                                                      last) for name in attack.sets]
            return counts.add(attack.run(trials))
        if kind == "data_set":
            targets = own_attack.of_data_set(own_attack.data_set(work / "set"))
        else:
            of = {"workdir": own_attack.of_workdir, "export": own_attack.of_export}[kind]
            targets = of(pathlib.Path(folder).resolve())
        for target in targets:
            counts.add(own_attack.run([target], range(first, last), work / "trials", mutations))
        return counts


if __name__ == "__main__":
    counted = main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), tuple(sys.argv[4:]))
    print(*counted.faults, *counted.table(), sep="\n")
    sys.exit(bool(counted.faults))
