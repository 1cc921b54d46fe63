"""The two-class mixture of Figure 5 (Kim et al. 2023): sampling, Bayes rule, fits by SGD and SAM, exact errors.

Red is +1, blue is -1.
"""

from samlib.paper.mixture.fitting import *  # noqa: F403
from samlib.paper.mixture.measures import *  # noqa: F403
from samlib.paper.mixture.model import *  # noqa: F403
