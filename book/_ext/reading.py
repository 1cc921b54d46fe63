"""Helps to read: a word of the glossary shows its meaning where it first stands on a page.

What other packages write and a screen reader cannot read is mended.
"""

import re

from docutils import nodes

GLOSSARY = "glossary"
WITHOUT = (GLOSSARY, "references", "api")  # pages that are lists of words themselves
NOT_PROSE = (nodes.reference, nodes.literal, nodes.literal_block, nodes.title, nodes.math, nodes.table)

MENDED = {  # a pattern in the HTML of other packages, and what stands in its place
    r'<table( border="1")? class="dataframe">': "<table>",  # the theme boxes what pandas shows by itself: tables look alike
    r' role="doc-biblioentry"': ' role="listitem"',  # the list around citations may hold nothing else
    r' aria-label="Toggle hidden content"': "",  # it hides the words "Show code cell source"
    r"</li>\s*<ul>": "\n<ul>",  # a list in the index of modules stands in no item: now in the one before it
    r"</ul>(?=\s*(<li>|</ul>))": "</ul></li>",
    # The theme lets the keyboard scroll wide outputs, but not those in figures.
    r'(<figure[^>]*>\s*<div class="output text_html")': r'\1 tabindex="0"',
}


def setup(app):
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-resolved", explain)
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def skip_fields(app, what, name, member, skip, options):
    """Leave out the fields of named tuples, of which Python says only their number; the class says what they are."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def meanings(app) -> dict[str, tuple[str, str]]:
    """From a word of the glossary, in small letters, to its anchor and its meaning."""
    items = app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item)
    return {item[0].astext().lower(): (item[0]["ids"][0], " ".join(item[-1].astext().split())) for item in items}


def explain(app, doctree, docname):
    if docname in WITHOUT:
        return
    address, unseen = app.builder.get_relative_uri(docname, GLOSSARY), meanings(app)
    word = re.compile(rf"\b({'|'.join(sorted(map(re.escape, unseen), key=len, reverse=True))})(?![\w-])", re.IGNORECASE)
    for text in list(doctree.findall(nodes.Text)):
        if any(isinstance(above, NOT_PROSE) for above in ancestors(text)):
            continue
        parts, end, said = [], 0, text.astext()
        for match in word.finditer(said):
            if found := unseen.pop(match[0].lower(), None):
                anchor, meaning = found
                about = {"refuri": f"{address}#{anchor}", "reftitle": meaning, "classes": ["samlib-term"]}
                link = nodes.reference("", match[0], internal=True, **about)
                parts += [nodes.Text(said[end : match.start()]), link]
                end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(said[end:])])


def mend(app, pagename, templatename, context, doctree):
    for fault, better in MENDED.items():
        context["body"] = re.sub(fault, better, context.get("body", ""))


def ancestors(node):
    while (node := node.parent) is not None:
        yield node
