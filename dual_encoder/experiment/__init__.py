"""A grid of runs: initialisations, tasks, fractions of the labels, folds and seeds; its statistics and its report."""
