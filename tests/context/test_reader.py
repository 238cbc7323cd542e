from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokloom.context.reader import decode, parse, read
from tokloom.errors import DocumentError


def refused(path: Path | str) -> str:
    with pytest.raises(DocumentError) as caught:
        read(path)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_is_one_document_named_by_its_path(alice_path: Path, alice: str) -> None:
    (document,) = read(alice_path)
    assert document.name == str(alice_path)
    assert document.text == alice
    assert len(document.sections) == 12


@pytest.mark.parametrize(
    "data",
    [
        "Der Zug fährt „heute“ – nach Köln.\n".encode(),
        b"\xef\xbb\xbf" + "Der Zug fährt „heute“ – nach Köln.\n".encode(),
        "\ufeffDer Zug fährt „heute“ – nach Köln.\n".encode("utf-16-le"),
        "\ufeffDer Zug fährt „heute“ – nach Köln.\n".encode("utf-16-be"),
        "\ufeffDer Zug fährt „heute“ – nach Köln.\n".encode("utf-32-le"),
        "\ufeffDer Zug fährt „heute“ – nach Köln.\n".encode("utf-32-be"),
        "Der Zug fährt „heute“ – nach Köln.\n".encode("cp1252"),
        "Der Zug fährt „heute“ – nach Köln.\r\n".encode(),
    ],
)
def test_every_usual_encoding_gives_the_same_text(data: bytes) -> None:
    assert parse("a.txt", data).text == "Der Zug fährt „heute“ – nach Köln.\n"


@pytest.mark.parametrize("text", ["这是一本关于茶的书。\n", "Книга о чае.\n", "日本語の本です。\n"])
def test_text_without_any_ascii_is_text(text: str) -> None:
    assert decode("a.txt", text.encode()) == text


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip))
def test_utf8_text_comes_back_as_it_is(text: str) -> None:
    if not text.startswith("\ufeff"):
        assert parse("a.txt", text.encode()).text == text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b" \n\t\n ", "empty"),
        ("\u00a0\u2003\n".encode(), "no text"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00", "binary file (it has NUL bytes)"),
        (bytes(range(1, 32)) * 8, "binary file"),
        (bytes(range(128, 256)) * 4, "can't be decoded"),
        ("\ufeffabc".encode("utf-16-le")[:-1], "can't be decoded"),
        ("text in UTF-16 without a mark".encode("utf-16-le"), "UTF-16 text needs its byte order mark"),
    ],
)
def test_what_is_not_text_is_refused_with_the_reason(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert problem in refused(path)


def test_a_missing_path_names_the_folder_that_is_missing_too(tmp_path: Path) -> None:
    assert "no such file or folder. Check the path." in refused(tmp_path / "none.txt")
    assert f"The folder {tmp_path / 'no'} does not exist either" in refused(tmp_path / "no" / "none.txt")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("secret")

    def refuse(self: Path) -> bytes:  # the tests may run as root, whom no permission stops
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "can't be read (Permission denied). Check its permissions." in refused(path)
    assert "no file in this folder can be read; the first problem" in refused(tmp_path)


def test_devices_and_circular_links_are_refused(tmp_path: Path) -> None:
    assert "neither a file nor a folder" in refused("/dev/zero")
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    assert "can't be opened" in refused(loop)
    assert "can't be opened" in refused("a\0b")


def test_a_folder_is_read_recursively_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.html", "sub/deep/d.TXT", ".hidden.txt", ".git/e.txt", "image.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<p>text of {name}</p>")
    names = [os.path.relpath(d.name, tmp_path) for d in read(tmp_path)]
    assert names == ["a.md", "b.txt", "sub/c.html", "sub/deep/d.TXT"]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("once")
    (tmp_path / "sub" / "back").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "sub")
    assert [d.text for d in read(tmp_path)] == ["once"]


def test_a_folder_leaves_out_what_it_can_not_read_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(b"\0\1\2")
    with caplog.at_level(logging.WARNING):
        assert [d.text for d in read(tmp_path)] == ["good"]
    assert "bad.txt" in caplog.text


def test_a_folder_without_readable_files_is_refused(tmp_path: Path) -> None:
    assert "no file of a known type in this folder" in refused(tmp_path)
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "the first problem" in refused(tmp_path)


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Grüße\r\n".encode())))
    (document,) = read("-")
    assert (document.name, document.text) == ("stdin", "Grüße\n")


def test_an_empty_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(DocumentError, match="stdin: the document is empty"):
        read("-")


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if os.fork() == 0:
        path.write_text("through the pipe")
        os._exit(0)
    assert read(path)[0].text == "through the pipe"
    os.wait()


def test_markdown_has_its_headings_as_sections() -> None:
    document = parse("a.md", b"# One\n\ntext\n\n## Two\n\nmore\n")
    assert [(s.title, s.level) for s in document.sections] == [("One", 1), ("Two", 2)]
    section = document.section_at(document.text.index("more"))
    assert section is not None
    assert section.title == "Two"
