from herenow.gateway.metering.punctuality import Punctuality
from herenow.metering import Meters
from herenow.model import Availability, Cause, Change


def change(cause: Cause, *, decided_s: float, last_active_s: float | None = None) -> Change:
    active = None if last_active_s is None else round(last_active_s * 1000)
    return Change("alice", False, Availability.OFFLINE, active, None, None, round(decided_s * 1e6), cause)


def measured(meters: Meters, promise: str) -> tuple[float, float]:
    """How many times a promise was measured, and the sum."""
    found = {
        sample.name: sample.value
        for family in meters.promise.collect()
        for sample in family.samples
        if sample.labels == {"promise": promise}
    }
    return found["herenow_promise_seconds_count"], round(found["herenow_promise_seconds_sum"], 6)


def test_each_promise_is_measured_from_what_began_it() -> None:
    meters = Meters()
    punctuality = Punctuality(meters)
    punctuality.fell_silent("alice", 15.0)
    punctuality.told(
        [
            change(Cause.CONNECT, decided_s=99.9, last_active_s=99.9),
            change(Cause.LEFT, decided_s=99.8, last_active_s=99.8),
            change(Cause.CLOSED, decided_s=99.9, last_active_s=98.1),
            change(Cause.ERROR, decided_s=99.9, last_active_s=98.0),
            change(Cause.TIMEOUT, decided_s=99.9, last_active_s=98.1),
            change(Cause.CLAIM, decided_s=1.0),
        ],
        100.0,
    )
    assert measured(meters, "connect") == (1, 0.1)
    assert measured(meters, "left") == (1, 0.2)
    assert measured(meters, "closed") == (2, 3.9)
    assert measured(meters, "silent") == (1, 16.9)
    assert punctuality._silences_s == {}


def test_who_came_back_was_not_lost() -> None:
    punctuality = Punctuality(Meters())
    punctuality.fell_silent("alice", 15.0)
    punctuality.came("alice")
    punctuality.came("bob")
    assert punctuality._silences_s == {}


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    meters = Meters()
    Punctuality(meters).told([change(Cause.CONNECT, decided_s=200.0)], 100.0)
    assert measured(meters, "connect") == (1, 0.0)
