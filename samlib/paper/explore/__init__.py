"""The explorers: widgets that compute in the reader's browser, the same live and in a page without a kernel."""

from samlib.paper.explore.draw import draw, normals, uniforms
from samlib.paper.explore.examples import ExamplesExplorer
from samlib.paper.explore.explorers import MemorizationExplorer, MixtureExplorer, Parameters, TheoryExplorer
from samlib.paper.explore.page import open_app, write_page
from samlib.paper.explore.threshold import ThresholdExplorer

__all__ = [
    "ExamplesExplorer", "MemorizationExplorer", "MixtureExplorer", "Parameters", "TheoryExplorer", "ThresholdExplorer",
    "draw", "normals", "open_app", "uniforms", "write_page",
]  # fmt: skip
