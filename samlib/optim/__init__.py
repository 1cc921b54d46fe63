"""Sharpness-aware minimization (SAM) and its variants. Each is a `torch.optim.Optimizer`."""

from samlib.optim.buffers import buffers_kept
from samlib.optim.sam import ASAM, SAM
from samlib.optim.variants import GSAM, FriendlySAM, LookSAM

__all__ = ["ASAM", "GSAM", "SAM", "FriendlySAM", "LookSAM", "buffers_kept"]
