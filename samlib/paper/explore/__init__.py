"""The explorers: widgets that compute in the reader's browser, the same live and in a page without a kernel."""

from samlib.paper.explore.explorers import *  # noqa: F403
from samlib.paper.explore.page import open_app, write_page  # noqa: F401
from samlib.paper.explore.recorded import ExamplesExplorer, ThresholdExplorer  # noqa: F401
