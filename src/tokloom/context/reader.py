"""Reads the user's documents: a file, a folder or standard input, as text with sections.

Text, Markdown, HTML and PDF are understood. `Document.text` is the decoded and, for HTML and PDF,
extracted text, with line ends as ``\\n``; all offsets, in citations too, count its characters.
"""

from __future__ import annotations

import codecs
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tokloom.context.headings import markdown_sections, text_sections
from tokloom.context.selector import Document
from tokloom.errors import DocumentError

_log = logging.getLogger(__name__)

STDIN = "-"

MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mkd"})
HTML = frozenset({".html", ".htm", ".xhtml"})
PDF = frozenset({".pdf"})
TEXT = frozenset(
    ".txt .text .log .rst .adoc .asciidoc .org .tex .csv .tsv .json .jsonl .yaml .yml .toml .ini .cfg .xml .srt .vtt "
    ".py .js .ts .java .c .h .cc .cpp .hpp .rs .go .rb .sh .sql".split()
)
"""Endings that a folder is searched for, with the three above. A file that is named itself may have any."""

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\x1b")
_MAX_CONTROL = 0.002  # share of control characters up to which a text may still be a text
_WARNINGS = 3  # about single files of a folder; the rest are counted
_MAX_FOREIGN = 0.3  # share of characters beyond ASCII in a plausible cp1252 text


def read(source: str | os.PathLike[str]) -> list[Document]:
    """The documents at a path, or on standard input for ``"-"``.

    A file gives one document, whatever its ending. A folder gives one for each file of a known type
    in it and the folders below, sorted by path; hidden files and links to folders are left out, and so is a file
    that can't be read, with a warning in the log.

    Raises:
        DocumentError: nothing is there, it can't be opened, it is empty, or it isn't text; for a
            folder, when no file in it can be read. Names the path, the problem and the next step.
    """
    if os.fspath(source) == STDIN:
        return [parse("stdin", sys.stdin.buffer.read())]
    path = Path(source)
    if _mode(path, str(path)) == "folder":
        return _folder(path)
    return [_file(path)]


def parse(name: str, data: bytes) -> Document:
    """A document from the bytes of a file. The ending of `name` decides the format, else what the bytes begin with.

    Raises:
        DocumentError: as `read`.
    """
    if not data.strip():
        raise DocumentError(name, "the document is empty", "Give one that has text in it.")
    ending = Path(name).suffix.lower()
    known = ending in TEXT | MARKDOWN | HTML
    if ending in PDF or (not known and data.startswith(b"%PDF-")):
        from tokloom.context.markup import pdf_document

        document = pdf_document(name, data)
    elif ending in HTML or (not known and data.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))):
        from tokloom.context.markup import html_document

        document = html_document(name, decode(name, data))
    else:
        text = decode(name, data)
        sections = markdown_sections if ending in MARKDOWN else text_sections
        document = Document(name, text, sections(text))
    if not document.text.strip():
        raise DocumentError(name, "the document has no text in it", "Give one that has text in it.")
    return document


def decode(name: str, data: bytes) -> str:
    """Bytes as text: by byte order mark, as UTF-8, or as Windows-1252 if that is plausible.

    Raises:
        DocumentError: the bytes are not text.
    """
    encoding = next((e for mark, e in _BOMS if data.startswith(mark)), None)
    try:
        if encoding is not None:
            text = data.decode(encoding).removeprefix("\ufeff")
        else:
            if b"\0" in data:
                raise DocumentError(
                    name,
                    "this is a binary file (it has NUL bytes)",
                    "Give text, Markdown, HTML or PDF; UTF-16 text needs its byte order mark.",
                )
            text = _utf8_or_cp1252(data)
    except UnicodeDecodeError as error:
        raise DocumentError(
            name,
            f"the text can't be decoded ({error.encoding}: {error.reason} at byte {error.start})",
            "Give text, Markdown, HTML or PDF; save text as UTF-8.",
        ) from None
    control = sum(ord(char) in _CONTROL or 0x7F <= ord(char) < 0xA0 for char in text)
    if control > max(1, _MAX_CONTROL * len(text)):
        raise DocumentError(
            name,
            f"this is a binary file ({control} control characters among {len(text)})",
            "Give text, Markdown, HTML or PDF.",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _utf8_or_cp1252(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # Every byte string is some latin-1 text; cp1252 leaves five bytes undefined, and a real text in it is
        # mostly ASCII. Else the complaint about UTF-8 is the useful one.
        foreign = sum(byte >= 0x80 for byte in data)
        if foreign > _MAX_FOREIGN * len(data):
            raise
        return data.decode("cp1252")


def _mode(path: Path, shown: str) -> str:
    """ "file" or "folder"; raises DocumentError for anything else."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        beside = path.parent
        hint = "Check the path." if beside.is_dir() else f"The folder {beside} does not exist either."
        raise DocumentError(shown, "there is no such file or folder", hint) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DocumentError(shown, f"it can't be opened ({_reason(error)})", "Check the path and its links.") from None
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return "file"
    raise DocumentError(shown, "it is neither a file nor a folder", "Give a file, a folder or - for standard input.")


def _file(path: Path) -> Document:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(str(path), f"the file can't be read ({_reason(error)})", "Check its permissions.") from None
    return parse(str(path), data)


def _folder(folder: Path) -> list[Document]:
    documents: list[Document] = []
    refused: list[DocumentError] = []
    for path in _walk(folder, refused.append):
        try:
            _mode(path, str(path))
            documents.append(_file(path))
        except DocumentError as error:
            refused.append(error)
    for left_out in refused[:_WARNINGS]:
        _log.warning("left out: %s", left_out)
    if len(refused) > _WARNINGS:
        _log.warning("left out: %d more files of %s", len(refused) - _WARNINGS, folder)
    if not documents:
        endings = ", ".join(sorted(TEXT | MARKDOWN | HTML | PDF)[:6])
        problem = f"no file in this folder can be read; the first problem: {refused[0]}" if refused else (
            f"there is no file of a known type in this folder ({endings} ...; hidden files are left out)"
        )  # fmt: skip
        raise DocumentError(str(folder), problem.rstrip("."), "Give a folder with text, Markdown, HTML or PDF files.")
    return documents


def _walk(folder: Path, refuse: Callable[[DocumentError], None]) -> Iterator[Path]:
    """Files of known types below a folder, sorted. Links to folders are not followed: they may lead out of it, or in
    circles."""

    def failed(error: OSError) -> None:
        where = str(error.filename or folder)
        refuse(DocumentError(where, f"the folder can't be opened ({_reason(error)})", "Check its permissions."))

    for root, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in TEXT | MARKDOWN | HTML | PDF:
                yield Path(root) / name


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
