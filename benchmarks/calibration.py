"""How often 90 % intervals of areas hold on places that are held out, and the calibration error of held-out places.

    python -m benchmarks.calibration --runs=runs/fold0,runs/fold1 --groups=data/ombria_groups.csv

Each run holds a fold of whole groups of places out. One group after the other is left out of the errors that the
intervals are made of, and tested: the share of its squares whose true share of a class lies in the interval. A group
counts as much as any other, as in the promise. 'all of a place' joins the images of a group to one area, which is
larger than any that the intervals are made for. The temperature is fitted to one half of the groups and the calibration
error is of the other half.
"""

import argparse

import numpy as np

from dual_encoder import calibrate
from dual_encoder.data.subsets import groups_of
from dual_encoder.evaluation.calibration import reliability, temperature
from dual_encoder.evaluation.conformal import radius, scores, spread
from dual_encoder.inference.segmenter import Segmenter
from dual_encoder.tasks.build import EvaluateConfig, build_evaluation
from dual_encoder.workdir.checkpoint import load_model

LEVEL = 0.9


def seen_by_halves(workdir, groups):
    """What the model of a run gives for the fold that it holds out, and for the halves of its groups."""
    model = load_model(workdir)
    built = build_evaluation(EvaluateConfig(
        task="evaluate", init_from=workdir, init_step=model.step, data_dir="", split="", folds=0, fold=0, groups="",
        evaluations=(), batch_size=1))
    segmenter, places = Segmenter(model), np.array(groups_of(built.records.location_ids, groups))
    first = np.isin(places, np.unique(places)[::2])
    for half in (first, ~first):
        rows = np.flatnonzero(half)
        yield calibrate.look(segmenter, built.records.only(rows), places[rows].tolist())


def coverage(predicted, true, places):
    """Per place: the share of its squares in the interval, those of a place as one area, and the mean width."""
    error, places = scores(predicted, true), np.array(places)
    rows = []
    for place in np.unique(places):
        own = places == place
        limit = radius(error[~own], places[~own].tolist(), LEVEL)
        half = limit * spread(predicted[own])
        width = np.minimum(1, predicted[own] + half) - np.maximum(0, predicted[own] - half)
        joined = scores(predicted[own].mean(keepdims=True), true[own].mean(keepdims=True))
        rows.append((np.mean(error[own] <= limit), float(joined[0] <= limit), width.mean(), own.sum()))
    return np.array(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, help="workdirs that hold folds out, joined by ','")
    parser.add_argument("--groups", required=True, help="CSV with location_id and group")
    options = parser.parse_args()
    tables = {}
    print("| run | half | temperature | calibration error | after | NLL | after |\n|---|---|---|---|---|---|---|")
    for run in options.runs.split(","):
        halves = list(seen_by_halves(run, options.groups))
        for number, (fitted, tested) in enumerate((halves, halves[::-1])):
            factor = temperature(fitted.logits, fitted.labels)
            before = reliability(tested.logits, tested.labels)
            after = reliability(tested.logits / np.float32(factor), tested.labels)
            print(f"| {run} | {number} | {factor:.3f} | {before.error:.4f} | {after.error:.4f} | {before.nll:.4f} | "
                  f"{after.nll:.4f} |")
        for squares in zip(*(half.squares for half in halves), strict=True):
            predicted, true = (np.concatenate([getattr(half, key)[:, -1] for half in squares])
                               for key in ("mapped", "true"))
            tables.setdefault(squares[0].side, []).append(
                coverage(predicted, true, [place for half in squares for place in half.places]))
    print("\n| side, px | places | squares | places weighted alike | squares weighted alike | all of a place | "
          "mean width |\n|---|---|---|---|---|---|---|")
    for side, found in tables.items():
        held, joined, width, count = np.concatenate(found).T
        deviation = held.std(ddof=1) / np.sqrt(len(held))
        print(f"| {side} | {len(held)} | {count.sum():.0f} | {held.mean():.3f} ± {deviation:.3f} | "
              f"{np.average(held, weights=count):.3f} | {joined.mean():.3f} | {width.mean():.3f} |")


if __name__ == "__main__":
    main()
