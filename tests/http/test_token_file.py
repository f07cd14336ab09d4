"""The token file: whole or not there, and private at every moment."""

import os
import stat
from pathlib import Path

import pytest

from herenow.http.token_file import TokenFile


def test_it_is_private_whatever_the_umask_and_whatever_was_there(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "app.db")
    file.path.write_text("old")
    file.path.chmod(0o666)
    before = os.umask(0)
    try:
        file.write("new")
    finally:
        os.umask(before)
    assert (file.read(), stat.S_IMODE(file.path.stat().st_mode)) == ("new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["app.db-token"]


def test_a_write_that_fails_leaves_the_old_one_and_no_draft(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "app.db")
    file.path.mkdir()
    with pytest.raises(OSError):
        file.write("new")
    assert [path.name for path in tmp_path.iterdir()] == ["app.db-token"]


def test_it_is_removed_only_if_it_is_ours(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "app.db")
    file.remove("anything")
    file.write("theirs")
    file.remove("ours")
    assert file.read() == "theirs"
    file.remove("theirs")
    assert not file.path.exists()
