"""What to change when a step does not fit, and the answer of a search in words."""

from dual_encoder.config import to_dict
from dual_encoder.tasks.build import AnyTask
from dual_encoder.tasks.pretrain import PretrainConfig


def least_batch(config: AnyTask, devices: int) -> int:
    """Returns the smallest batch that a run takes, of which all others are multiples.

    That is a micro-batch, or one row per device; pre-training on a single one wants two.
    """
    return max(config.micro_batch_rows() or devices, 2 if isinstance(config, PretrainConfig) else 1)


def outcome(config: AnyTask, low: int, high: int | None, devices: int, failure: str) -> str:
    """Returns the answer of the search in words."""
    least = least_batch(config, devices)
    end = f"; the search ended early: {failure}" if failure else ""
    if low:
        return f"largest global batch that fits: {low:,}" + (f" ({high:,} does not)" if high else "") + end
    if high is not None and high > least:
        return f"largest global batch that fits: less than {high:,}, not searched further" + end
    if config.micro_batch_rows():
        return f"no global batch in micro-batches of {config.micro_batch_rows():,} rows fits"
    return f"no global batch fits: {'one row per device is' if least == devices else 'two rows are'} too much"


def find_remedies(config: AnyTask, fitting: int, too_large: int, devices: int) -> list[str]:
    """Returns what makes a step smaller, of what the configuration does not use yet or may use more of.

    Args:
      config: that does not fit.
      fitting: a global batch that fits; 0 if none is known.
      too_large: the smallest that is known not to fit.
      devices: their number.
    """
    values = to_dict(config)
    used = config.micro_batch_rows()
    micro_batch = ("--config.train.micro_batch (activations of a part of the batch at a time"
                   + (", BatchNorm's statistics over that part only)" if config.encoder.uses_batch_statistics else ")"))
    choices = [
        ("loss", "chunk", 0, "--config.loss.chunk=1024 (no matrix of all similarities)"),
        ("train", "micro_batch", 0, micro_batch),
        ("encoder", "remat", False, "--config.encoder.remat=True (activations made again in the backward pass)"),
        ("encoder", "dtype", "float32", "--config.encoder.dtype=bfloat16"),
    ]
    if isinstance(config, PretrainConfig) and not config.loss.negatives:
        del values["loss"]  # there is no such matrix
    if too_large <= devices:
        values.pop("train", None)  # one row per device has no parts
    rows = [f"a smaller {micro_batch}"] if used > devices else []
    if fitting:
        rows.append(f"--config.batch_size={fitting}")
    elif too_large > least_batch(config, devices):
        rows.append("a smaller --config.batch_size")
    return [*rows, *(text for group, key, unused, text in choices if values.get(group, {}).get(key) == unused),
            "a smaller --config.augment.crop", "more devices"]
