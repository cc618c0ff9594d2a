"""Reads a page as a person does who has no browser: its text, tables and plots."""

import json
from html.parser import HTMLParser


class Page(HTMLParser):
    """A page's sections, by their keys.

    Attributes:
        text: what a person reads.
        tables: rows of cells, the heading first.
        plots: figures by their titles.
        pictures: the images' sources.
    """

    def __init__(self, path):
        super().__init__()
        self.text, self.tables, self.plots, self.pictures = {}, {}, {}, {}
        self.section, self.stack, self.heading, self.attributes = "", [], "", {}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes[tag] = attributes
        if tag == "section":
            self.section = attributes["id"]
            self.text[self.section] = ""
            self.tables[self.section], self.plots[self.section] = [], {}
            self.pictures[self.section] = []
        elif tag == "img":
            self.pictures[self.section].append(attributes["src"])
        elif tag == "table":
            self.tables[self.section].append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self.section][-1][-1].append("")
        elif tag == "h3":
            self.heading = ""
        if tag not in ("img", "meta", "link", "wbr"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        self.stack.pop()

    def handle_data(self, data):
        tag = self.stack[-1] if self.stack else ""
        if tag == "script" and self.attributes["script"].get("type") == "application/json":
            self.plots[self.section][self.heading] = json.loads(data)
        elif tag not in ("script", "style") and self.section:
            self.text[self.section] += " ".join(data.split()) + " "
            if tag == "h3":
                self.heading += data
            if tag in ("td", "th"):
                self.tables[self.section][-1][-1][-1] += data
