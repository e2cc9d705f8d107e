"""Evaluations of a finished run, on any split of any matching data set.

    python main.py --config=configs/evaluate.py --config.init_from=WORKDIR

Of a pre-training run: retrieval among distinct places, S1 -> S2 and S2 -> S1, and embedding space. Of segmentation and
classification: confusion matrix, precision and recall of each class, and a table of all images (evaluation/*.csv).

It evaluates what the run evaluates itself on: the fold that it holds out, or its eval_split. With one encoder, the
partner of an image is the same image turned upside down. A CPU with 2 cores takes half a minute for the sample of `make
demo`. Others, each into a workdir of its own:

    python main.py --config=configs/evaluate.py --config.init_from=RUN --workdir=W --config.groups=event
        Also retrieval among the places of other events: near neighbours of one scene do not compete.
    python main.py --config=configs/evaluate.py --config.init_from=RUN --workdir=W --config.split=train --config.folds=5
        The first of five folds of a split.
    python main.py --config=configs/evaluate.py --config.init_from=RUN --workdir=W --config.data_dir=D
        Another data set with the same bands, and the same classes if the run has learnt some.
    python main.py --config=configs/evaluate.py --config.init_from=RUN --workdir=W --config.evaluations="('retrieval',)"
        Some of the evaluations: retrieval, embedding_space.

What comes out, in WORKDIR or in --workdir: evaluation/ (scores and pictures) and report.html, which is written again.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the configuration; data_dir, split and groups default to those of the run."""
    return ConfigDict({
        "task": "evaluate",
        "init_from": "",
        "init_step": -1,
        "data_dir": "",
        "split": "",
        "folds": 0,
        "fold": 0,
        "groups": "",
        "evaluations": (),
        "batch_size": 64,
    })
