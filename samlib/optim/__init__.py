"""Sharpness-aware minimization and its variants, each a `torch.optim.Optimizer`."""

from samlib.optim.sam import ASAM, SAM, batchnorm_statistics_frozen
from samlib.optim.variants import GSAM, FriendlySAM, LookSAM

__all__ = ["ASAM", "GSAM", "SAM", "FriendlySAM", "LookSAM", "batchnorm_statistics_frozen"]
