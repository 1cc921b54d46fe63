"""The theory as functions that can be checked: data model, MSA order, minimum-norm geometry, attacks, and SAM itself.

Statement numbers are those of the book's page on theory. Each `check_` function tries one statement on random problems.
"""

from samlib.paper.theory.checking import *  # noqa: F403
from samlib.paper.theory.geometry import *  # noqa: F403
from samlib.paper.theory.model import *  # noqa: F403
from samlib.paper.theory.order import *  # noqa: F403
from samlib.paper.theory.sam import *  # noqa: F403
from samlib.paper.theory.samples import *  # noqa: F403
