"""What a reader of the pages would stumble over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote


class Page(HTMLParser):
    """What a page links to, shows and names.

    Attributes:
        links: addresses of links.
        loads: addresses that a browser loads by itself.
        anchors: ids.
        untold: addresses of pictures without an alternative text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.loads, self.anchors, self.untold = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        found: Mapping[str, str] = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if "src" in found or (tag == "link" and found.get("rel") != "canonical"):
            self.loads.append(found.get("src") or found.get("href", ""))
        if tag == "img" and len(found.get("alt", "").split()) < 3:
            self.untold.append(found.get("src", "")[:60])


def page_faults(folder: Path) -> Iterator[str]:
    """Links that lead nowhere, pictures without an alternative text of a few words, what is loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        yield from (f"{name}: no alternative text for {picture}" for picture in page.untold)
        yield from (f"{name}: loads {a}" for a in page.loads if re.match(r"(https?:)?//", a))
        for address in (a for a in page.links + page.loads if not re.match(r"[a-z]+:|//", a)):
            file, _, anchor = unquote(address).partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            if not target.exists():
                yield f"{name}: {address} leads nowhere"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{name}: {address} leads to no such place"
