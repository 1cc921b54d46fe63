"""The explorers: widgets that compute in the reader's browser, the same live and in a page without a kernel."""

from samlib.widgets.draw import draw, normals, uniforms
from samlib.widgets.explorers import MixtureExplorer, Parameters, TheoryExplorer
from samlib.widgets.page import open_app, write_page

__all__ = ["MixtureExplorer", "Parameters", "TheoryExplorer", "draw", "normals", "open_app", "uniforms", "write_page"]
