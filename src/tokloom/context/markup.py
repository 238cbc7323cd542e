"""Text and sections of HTML (beautifulsoup4) and PDF (pypdf). Both libraries load on first use."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from tokloom.context.headings import nest
from tokloom.context.selector import Document, Section
from tokloom.errors import DocumentError

if TYPE_CHECKING:
    from bs4.element import PageElement

_DROPPED = frozenset({"script", "style", "noscript", "template", "head", "nav", "svg", "iframe", "object", "button"})
_PARAGRAPHS = frozenset(
    "p div section article main header footer aside blockquote figure figcaption table ul ol dl pre form fieldset "
    "address details summary h1 h2 h3 h4 h5 h6 hr".split()
)
_LINES = frozenset({"li", "tr", "dt", "dd", "br", "caption", "option"})
_HEADINGS = {f"h{i}": i for i in range(1, 7)}


class _Writer:
    """Collects text with one rule: white space collapses, and breaks are put between pieces, never doubled."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.length = 0
        self.pending = ""  # the break before the next piece of text

    def space(self, wanted: str) -> None:
        """A break of at least `wanted`: a space, a line end or an empty line."""
        if self.length and len(wanted.replace(" ", "")) >= len(self.pending.replace(" ", "")):
            self.pending = wanted

    def write(self, text: str) -> None:
        if not text:
            return
        for piece in (self.pending, text):
            self.pieces.append(piece)
            self.length += len(piece)
        self.pending = ""

    @property
    def next(self) -> int:
        """Where the next piece of text will begin."""
        return self.length + len(self.pending)


def html_document(name: str, markup: str) -> Document:
    """The visible text of an HTML page; ``h1`` to ``h6`` begin sections of level 1 to 6, table cells are tab-separated.

    Raises:
        DocumentError: the page has no visible text.
    """
    from bs4 import BeautifulSoup

    writer = _Writer()
    marks: list[tuple[int, int, str]] = []
    soup = BeautifulSoup(markup, "html.parser")
    # A stack instead of recursion: pages nest deeper than Python's stack allows.
    stack: list[PageElement | str] = [soup]
    while stack:
        _step(stack.pop(), stack, writer, marks)
    text = "".join(writer.pieces)
    if not text.strip():
        raise DocumentError(name, "the page has no visible text", "Save the page after its scripts have run.")
    return Document(name, text, nest(marks, len(text)))


def _step(
    node: PageElement | str, stack: list[PageElement | str], writer: _Writer, marks: list[tuple[int, int, str]]
) -> None:
    from bs4.element import NavigableString, PreformattedString, Tag

    if isinstance(node, Tag):
        tag = node.name
        if tag in _DROPPED or node.get("hidden") is not None:
            return
        if tag in _HEADINGS:
            writer.space("\n\n")
            title = " ".join(node.get_text(" ").split())
            if title:
                marks.append((writer.next, _HEADINGS[tag], title))
        around = "\n\n" if tag in _PARAGRAPHS else "\n" if tag in _LINES else ""
        if around:
            writer.space(around)
            stack.append(around)
        elif tag in ("td", "th"):
            stack.append("\t")
        stack.extend(reversed(list(node.children)))
    elif isinstance(node, NavigableString):
        if isinstance(node, PreformattedString):  # comments, doctypes, CDATA
            return
        if node.find_parent("pre") is not None:
            raw = str(node).lstrip("\n") if writer.pending.endswith("\n") else str(node)
            lines = raw.rstrip("\n")
            writer.write(lines)
            if len(raw) > len(lines):
                writer.space("\n" * (len(raw) - len(lines)))
            return
        words = " ".join(node.split())
        if node[:1].isspace():
            writer.space(" ")
        writer.write(words)
        if node[-1:].isspace():
            writer.space(" ")
    elif isinstance(node, str):  # a break that was put on the stack to follow an element
        writer.space(node)


def pdf_document(name: str, data: bytes) -> Document:
    """The text of a PDF, one section of level 1 per page that has text ("page 3").

    Raises:
        DocumentError: the file is damaged, needs a password, or has pictures of text only.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentError(name, "the PDF needs a password", "Save a copy without one.")
        pages = [page.extract_text() for page in reader.pages]
    except DocumentError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        # A damaged file fails anywhere in the reader, with whatever Python raises there.
        raise DocumentError(name, f"the PDF can't be read ({error})", "Open it elsewhere and save it again.") from None
    except ImportError as error:  # pypdf asks for its encryption backend only when it meets an encrypted file
        raise DocumentError(name, f"the PDF is encrypted ({error})", "Save a copy without encryption.") from None
    text = ""
    marks: list[tuple[int, int, str]] = []
    for number, page in enumerate(pages, 1):
        body = re.sub(r"[ \t]+\n", "\n", page.replace("\r\n", "\n").replace("\0", "")).strip()
        if not body:
            continue
        text += "\n\n" if text else ""
        marks.append((len(text), 1, f"page {number}"))
        text += body
    if not text:
        count = f"{len(pages)} page{'s' if len(pages) != 1 else ''}"
        raise DocumentError(
            name, f"the PDF has no text in its {count} (scanned pictures?)", "Run it through OCR first, e.g. ocrmypdf."
        )
    sections: tuple[Section, ...] = nest(marks, len(text))
    return Document(name, text, sections)
