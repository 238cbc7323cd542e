from __future__ import annotations

import io

import pytest
from pypdf import PdfWriter

from tests.context.fakes import minimal_pdf
from tokloom.context.reader import parse
from tokloom.errors import DocumentError

PAGE = """<!DOCTYPE html><html><head><title>Head</title><style>p {}</style></head><body>
<nav>Menu</nav><script>var hidden = 1;</script><!-- comment -->
<h1>First   <em>heading</em></h1><p>Some <b>bold</b>, plain
text.<br>Next line</p><div hidden>unseen</div><div>A block</div>
<h2>Second</h2><ul><li>one</li><li>two</li></ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre>
def f():
    <span>return</span> 1
</pre><p>Fran&ccedil;ais</p></body></html>"""


def test_html_gives_the_visible_text_in_blocks() -> None:
    document = parse("page.html", PAGE.encode())
    assert document.text == (
        "First heading\n\nSome bold, plain text.\nNext line\n\nA block\n\nSecond\n\none\ntwo\n\na\tb\n1\t2\n\n"
        "def f():\n    return 1\n\nFrançais"
    )


def test_html_headings_are_sections_at_exact_offsets() -> None:
    document = parse("page.html", PAGE.encode())
    assert [(s.level, s.title) for s in document.sections] == [(1, "First heading"), (2, "Second")]
    for section in document.sections:
        assert document.text[section.start :].startswith(section.title)


def test_html_is_recognised_without_its_ending() -> None:
    assert parse("stdin", b"\n<!doctype HTML><p>Hello").text == "Hello"
    assert parse("stdin", b"<html><p>Hello").text == "Hello"
    assert parse("a.txt", b"<html><p>Hello").text == "<html><p>Hello"


def test_deeply_nested_html_is_read() -> None:
    assert parse("a.html", b"<div>" * 5000 + b"deep" + b"</div>" * 5000).text == "deep"


def test_html_without_text_is_refused() -> None:
    with pytest.raises(DocumentError, match=r"a\.html: the page has no visible text\. Save the page after"):
        parse("a.html", b"<html><script>x()</script></html>")


def test_pdf_has_a_section_per_page_with_text() -> None:
    document = parse("a.pdf", minimal_pdf(["The first page.", "", "The third page."]))
    assert document.text == "The first page.\n\nThe third page."
    assert [s.title for s in document.sections] == ["page 1", "page 3"]
    assert [document.text[s.start : s.end].strip() for s in document.sections] == ["The first page.", "The third page."]


def test_pdf_is_recognised_without_its_ending() -> None:
    assert parse("stdin", minimal_pdf(["Piped."])).text == "Piped."


def test_a_scanned_pdf_says_that_it_has_no_text() -> None:
    with pytest.raises(DocumentError, match=r"no text in its 2 pages .*OCR"):
        parse("scan.pdf", minimal_pdf(["", ""]))


@pytest.mark.parametrize("data", [b"%PDF-1.4\nnot really", b"nothing like a PDF", minimal_pdf(["x"])[:200]])
def test_a_damaged_pdf_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError, match=r"bad\.pdf: the PDF can't be read"):
        parse("bad.pdf", data)


def test_a_pdf_with_a_password_is_refused() -> None:
    writer = PdfWriter(clone_from=io.BytesIO(minimal_pdf(["secret"])))
    writer.encrypt("password", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    with pytest.raises(DocumentError, match="needs a password"):
        parse("locked.pdf", buffer.getvalue())
