"""Searches for the largest batch that fits."""

from collections.abc import Callable

from dual_encoder.errors import UserError

COMPILES = 8  # the largest number of compilations of a search


def largest_batch(fits: Callable[[int], bool], multiple: int, start: int, start_fits: bool,
                  guess: Callable[[int], int] = lambda batch: 0, questions: int = COMPILES
                  ) -> tuple[int, int | None, str]:
    """Searches for the largest global batch that fits, by bisection.

    The search ends if the two ends differ by at most one sixteenth of the lower one or by `multiple`, after `questions`
    calls of `fits`, or if a call raises UserError.

    Args:
      fits: returns whether a batch fits; expensive. It raises UserError if it cannot find out.
      multiple: all batches are multiples of it.
      start, start_fits: a batch for which the result is known, and that result.
      guess: returns the expected largest batch, after `fits` was called for a batch; 0 if nothing is known.
      questions: the largest number of calls of `fits`.

    Returns:
      The largest batch that is known to fit (0: none is known), the smallest batch that is known not to fit (None: none
      is known), and why the search ended early ('': it did not).
    """
    low, high = (start, None) if start_fits else (0, start)
    for question in range(questions):
        if high is not None and high - low <= max(multiple, low // 16):
            break
        if high is None:  # the compiler saves memory if it is short, so more may fit than expected
            expected = guess(low)
            batch = max(expected, low * 5 // 4) if expected else low * 2
        elif question == 0 and 0 < (expected := guess(high)) < high:
            batch = expected
        else:
            batch = (low + high) // 2
        batch = max(batch // multiple * multiple, low + multiple)
        try:
            answer = fits(batch)
        except UserError as error:
            return low, high, str(error)
        if answer:
            low = batch
        else:
            high = batch
    return low, high, ""
