"""Fills a MongoDB database as the original system left it on a Monday morning, to try herenow on.

    python examples/mongo_nextjs/seed.py mongodb://127.0.0.1:27017/shop

A thousand users. Most have never had a presence field. Forty do, from the system before, and stand online since it
crashed. It refuses a database that has users already.
"""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, PyMongoError

FIRST = ["Alice", "Bruno", "Chloé", "David", "Emma", "Farid", "Gaëlle", "Hugo", "Inès", "Jules"]
LAST = ["Martin", "Petit", "Durand", "Moreau", "Laurent", "Benali", "Simon", "Michel", "Garcia", "Roux"]

USERS: Final = 1_000
STUCK: Final = 40
"""So many stand online without being there: the last one since just now, the others since one to forty hours."""


def user(number: int, now: datetime) -> dict[str, Any]:
    """A user as the application made it."""
    first, last = FIRST[number % 10], LAST[number // 10 % 10]
    document: dict[str, Any] = {
        "name": f"{first} {last}",
        "email": f"{first}.{last}.{number}@example.com".lower().translate(str.maketrans("éëè", "eee")),
        "passwordHash": "$2b$12$" + hashlib.sha256(str(number).encode()).hexdigest()[:53],
        "roles": ["customer"],
        "createdAt": now - timedelta(days=200),
    }
    if number % (USERS // STUCK) == 0:
        hours = number // (USERS // STUCK)
        document |= {"isOnline": True, "lastActive": now - (timedelta(hours=hours) or timedelta(seconds=19))}
    return document


def main(url: str) -> str:
    """Seed the database of an address; return what to say."""
    client: MongoClient[dict[str, Any]] = MongoClient(url, serverSelectionTimeoutMS=3000)
    with client:
        users = client.get_default_database()["users"]
        if users.find_one() is not None:
            return f"{users.full_name} has users already: nothing was written"
        now = datetime.now(UTC)
        users.create_index("email", unique=True)
        users.insert_many([user(number, now) for number in range(USERS)])
        return f"{users.full_name}: {USERS:,} users, {STUCK} of them stuck online"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python seed.py mongodb://host/database")
    try:
        sys.stdout.write(main(sys.argv[1]) + "\n")
    except (ConfigurationError, PyMongoError) as error:
        sys.exit(f"the database cannot be used: {str(error).splitlines()[0][:200]}")
