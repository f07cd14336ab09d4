from herenow import errors
from herenow.errors import (
    HerenowError,
    RegistryUnavailable,
    StoreError,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
    StoreUnforeseen,
)

DATABASE = "/var/lib/herenow.db"


def subclasses(of: type[HerenowError]) -> list[type[HerenowError]]:
    return [of, *(found for direct in of.__subclasses__() for found in subclasses(direct))]


def test_every_error_is_drawn_in_the_tree() -> None:
    for error in subclasses(HerenowError):
        if error.__module__ != errors.__name__:
            continue  # a command's own, which leaves the program as a sentence
        assert f" {error.__name__} " in f"{errors.__doc__} ".replace("\n", " "), error


def test_every_store_error_is_one_sentence_that_names_the_database() -> None:
    special = {
        StoreInUse: StoreInUse(DATABASE, host="web-1", pid=4711, beat_ms=1_740_000_000_000),
        StoreTooNew: StoreTooNew(DATABASE, found=2, known=1),
    }
    for kind in subclasses(StoreError):
        assert issubclass(kind, StoreError)
        error = special.get(kind) or kind(DATABASE, "because")
        text = str(error)
        assert DATABASE in text
        assert text.endswith(".")
        assert text.count(". ") == 0
        assert error.reason in text


def test_only_what_can_pass_by_itself_is_temporary() -> None:
    ours = [error for error in subclasses(HerenowError) if error.__module__ == errors.__name__]
    assert [error for error in ours if error.temporary] == [
        RegistryUnavailable,
        StoreUnavailable,
        StoreUnforeseen,
    ]


def test_a_second_server_is_told_the_first_ones_host_process_and_last_beat() -> None:
    error = StoreInUse(DATABASE, host="web-1", pid=4711, beat_ms=1_740_000_000_250)
    assert str(error) == (
        "The database /var/lib/herenow.db belongs to another server: process 4711 on web-1, "
        "last beat at 2025-02-19T21:20:00.250Z; stop it first."
    )
    assert (error.host, error.pid, error.beat_ms) == ("web-1", 4711, 1_740_000_000_250)
