"""The book reads fully with no network: MathJax comes from an installed package, and Thebe, which needs a server, goes."""

import importlib.util

MATHJAX = "tex-svg.js"  # one file with its fonts inside


def setup(app):
    package = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
    app.config.html_static_path.append(f"{package}/static/mathjax/{MATHJAX}")
    app.config.mathjax_path = MATHJAX
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def drop_thebe(app, pagename, templatename, context, doctree):
    for kind in ("script_files", "css_files"):
        # `str` gives a file's name, and what an inline script holds
        context[kind] = [file for file in context.get(kind, ()) if "thebe" not in str(file).lower()]
