"""The file by which a server lets the commands of its own user in."""

import os
import secrets
from pathlib import Path


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
