"""Fills a MongoDB database as the original system left it on a Monday morning, to try herenow on.

    python examples/mongo_nextjs/seed.py mongodb://127.0.0.1:27017/shop

Nine users. Six have never had a presence field. Three do, from the system before, and stand online since it crashed.
It refuses a database that has users already.
"""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, PyMongoError

NAMES = ["Alice Martin", "Bruno Petit", "Chloé Durand", "David Moreau", "Emma Laurent", "Farid Benali", "Gaëlle Simon",
         "Hugo Michel", "Inès Garcia"]  # fmt: skip
STUCK = {"Alice Martin": 9, "David Moreau": 3, "Hugo Michel": 1}
"""Who stands online without being there, and the hours since they were last seen."""


def user(name: str, now: datetime) -> dict[str, Any]:
    """A user as the application made it."""
    first = name.split()[0].lower().translate(str.maketrans("éëè", "eee"))
    document: dict[str, Any] = {
        "name": name,
        "email": f"{first}@example.com",
        "passwordHash": "$2b$12$" + hashlib.sha256(name.encode()).hexdigest()[:53],
        "roles": ["customer"],
        "createdAt": now - timedelta(days=200),
    }
    if name in STUCK:
        document |= {"isOnline": True, "lastActive": now - timedelta(hours=STUCK[name])}
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
        users.insert_many([user(name, now) for name in NAMES])
        return f"{users.full_name}: {len(NAMES)} users, {len(STUCK)} of them stuck online"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python seed.py mongodb://host/database")
    try:
        sys.stdout.write(main(sys.argv[1]) + "\n")
    except (ConfigurationError, PyMongoError) as error:
        sys.exit(f"the database cannot be used: {str(error).splitlines()[0][:200]}")
