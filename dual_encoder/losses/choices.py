"""The objectives that config.loss.name chooses from. A new one is a dataclass in a file of its own, and a line here."""

from dual_encoder.losses.with_negatives import IaISimCLR, InfoNCE, NTXent, Sigmoid
from dual_encoder.losses.without_negatives import Barlow, DeCUR, VICReg

AnyObjective = InfoNCE | NTXent | IaISimCLR | Sigmoid | Barlow | DeCUR | VICReg
