"""Runs a configuration: pre-training, fine-tuning, evaluation or probes. See `python main.py --help`."""

from dual_encoder.train import main

if __name__ == "__main__":
    main()
