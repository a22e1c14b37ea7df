"""Takes the comment `#: …` behind an attribute for its docstring."""

from typing import Any

from griffe import Attribute, Docstring, Extension


class Comments(Extension):
    def on_attribute_instance(self, *, attr: Attribute, **kwargs: Any) -> None:
        if attr.docstring is None and attr.lines_collection and attr.lineno:
            _, mark, comment = attr.source.partition("  #: ")
            if mark:
                attr.docstring = Docstring(comment, parent=attr)
