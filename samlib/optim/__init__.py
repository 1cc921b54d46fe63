"""Sharpness-aware minimization and its variants, each a `torch.optim.Optimizer`."""

from samlib.optim.buffers import buffers_kept
from samlib.optim.sam import ASAM, SAM
from samlib.optim.variants import GSAM, FriendlySAM, LookSAM

__all__ = ["ASAM", "GSAM", "SAM", "FriendlySAM", "LookSAM", "buffers_kept"]
