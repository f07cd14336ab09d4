"""Ids: nobody can guess one, and none comes twice, whoever shares the memory that they are made in."""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from herenow.socketio_server.ids import SIZE, new_id


def test_an_id_is_fit_for_a_url_and_long_enough() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{20}", new_id())
    assert SIZE * 8 >= 120


def test_no_id_comes_twice_in_any_thread() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [made for some in threads.map(lambda _: [new_id() for _ in range(5_000)], range(8)) for made in some]
    assert len(set(made)) == len(made)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_makes_ids_of_its_own() -> None:
    new_id()  # now there are some in store
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    ours = {new_id() for _ in range(100)}
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    theirs = {text[start : start + 20] for start in range(0, len(text), 20)}
    assert len(theirs) == 100
    assert not ours & theirs
