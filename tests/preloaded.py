"""What the fork server of ``programs.py`` loads once, for all the processes that it forks.

All that is here then belongs to no garbage collection any more: each of those processes would else go through it, and
copy it, page by page.
"""

import gc
from importlib import import_module

for name in (
    "herenow.cli.app",
    "herenow.cli.server",
    "herenow.store.mongo.store",
    "herenow.store.sqlite.store",
    "pydantic.v1",  # FastAPI loads it with the first route
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
):
    import_module(name)
gc.collect()
gc.freeze()
