"""The file by which a server lets the commands of its own user in."""

import os
import re
import secrets
from pathlib import Path

from herenow.settings import sqlite_path


def find_token_file(database: str, address: str) -> "TokenFile":
    """Say where the token of a server lies: beside a SQLite file, or else in its user's own directory for such things.

    Args:
        database: the address of the database.
        address: where the server's HTTP is; no two servers of a machine share it.
    """
    path = sqlite_path(database)
    if path is None:
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        path = Path(home, "herenow", re.sub("[^0-9A-Za-z.]+", "-", address))
    return TokenFile(path)


class TokenFile:
    """The admin token in a file that only the server's own user can read.

    Attributes:
        path: where it is.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.absolute().with_name(f"{database.name}-token")

    def write(self, token: str) -> None:
        """Put the token there, whole or not at all; never readable by others, not even for a moment.

        Raises:
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(file, token.encode())
            os.replace(draft, self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def read(self) -> str:
        """Read it.

        Raises:
            OSError: it is not there, or this user may not.
        """
        return self.path.read_text().strip()

    def remove(self, token: str) -> None:
        """Remove it, if it is still ours.

        Raises:
            OSError: it cannot be removed.
        """
        try:
            if self.read() == token:
                self.path.unlink()
        except FileNotFoundError:
            return
