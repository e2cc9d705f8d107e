"""The search for the largest batch that fits."""

from collections.abc import Callable

from dual_encoder.errors import UserError

COMPILES = 8  # of the search for the largest batch, at most


def largest_batch(fits: Callable[[int], bool], multiple: int, start: int, start_fits: bool,
                  guess: Callable[[int], int] = lambda batch: 0, questions: int = COMPILES
                  ) -> tuple[int, int | None, str]:
    """Searches the largest global batch that fits, by bisection.

    It ends when the answer is known to one sixteenth, or to `multiple`, after `questions`, or when one has no answer.

    Args:
      fits: answers for one batch; expensive. UserError: there is no answer.
      multiple: batches are multiples of it.
      start, start_fits: the answer that is known.
      guess: what to expect after the answer for a batch; 0 if nothing is known.
      questions: at most.

    Returns:
      the largest batch that is known to fit (0: none does), the smallest known not to (None: none was met), and why the
      search ended early ('': it did not).
    """
    low, high = (start, None) if start_fits else (0, start)
    for question in range(questions):
        if high is not None and high - low <= max(multiple, low // 16):
            break
        if high is None:  # the compiler makes room when memory is short, so more may fit than expected
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
