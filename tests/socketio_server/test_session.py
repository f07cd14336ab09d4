"""The session's state machine: every state, every input, and its law over random histories."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from herenow.socketio_server.engineio.session import (
    LOOKS,
    MESSAGE_COST,
    Closed,
    Event,
    MessageReceived,
    PongReceived,
    ProbeFailed,
    Reason,
    Session,
    SessionSettings,
    Transport,
    Upgraded,
)

SETTINGS = SessionSettings(ping_interval_ms=300, ping_timeout_ms=200, upgrade_timeout_ms=1_000, random=lambda: 0.0)
PING_AT = 285  # the interval, less the least jitter


def polling() -> Session:
    """A session over polling whose handshake was answered."""
    session = Session("sid", Transport.POLLING, SETTINGS, 0)
    session.begin_poll()
    session.poll_data()
    return session


def waiting() -> Session:
    session = polling()
    session.begin_poll()
    return session


def posting() -> Session:
    session = polling()
    session.begin_post()
    return session


def probing() -> Session:
    session = waiting()
    session.begin_probe(0)
    return session


def probed() -> Session:
    session = probing()
    session.receive_probe("2probe")
    session.probe_data_to_send()
    session.poll_data()
    return session


def websocket() -> Session:
    session = Session("sid", Transport.WEBSOCKET, SETTINGS, 0)
    session.data_to_send()
    return session


def upgraded() -> Session:
    session = probed()
    session.receive_probe("5")
    return session


def closed() -> Session:
    session = websocket()
    session.close()
    return session


OPEN_STATES = [polling, waiting, posting, probing, probed, websocket, upgraded]


# -- handshake ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transport", "upgrades"), [(Transport.POLLING, ["websocket"]), (Transport.WEBSOCKET, [])])
def test_the_handshake_says_all_that_the_client_must_know(transport: Transport, upgrades: list[str]) -> None:
    session = Session("abc", transport, SETTINGS, 0)
    if transport is Transport.POLLING:
        assert session.data_to_send() == []
        session.begin_poll()
        packet = session.poll_data()
        assert isinstance(packet, str)
    else:
        [first] = session.data_to_send()
        assert isinstance(first, str)
        packet = first
    assert packet[0] == "0"
    assert msgspec.json.decode(packet[1:]) == {
        "sid": "abc",
        "upgrades": upgrades,
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": 1_000_000,
    }


@pytest.mark.parametrize("name", ["ping_interval_ms", "ping_timeout_ms", "max_payload", "upgrade_timeout_ms"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_setting_that_cannot_work_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        SessionSettings(**{name: value})  # type: ignore[arg-type]  # the names are those of int fields


# -- packets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", OPEN_STATES)
@pytest.mark.parametrize(
    ("packet", "events"),
    [
        ("4hello", [MessageReceived("hello")]),
        ("4", [MessageReceived("")]),
        (b"\x01", [MessageReceived(b"\x01")]),
        ("bAQ==", [MessageReceived(b"\x01")]),
        ("3", [PongReceived()]),
        ("6", []),
    ],
)
def test_packets_that_a_client_may_send(make: Callable[[], Session], packet: str | bytes, events: list[Event]) -> None:
    session = make()
    assert session.receive(packet) == events
    assert session.reason is None


@pytest.mark.parametrize("make", OPEN_STATES)
@pytest.mark.parametrize("packet", ["", "abc", "7", "0{}", "2", "2probe", "5", "b!"])
def test_any_other_packet_closes_the_session_at_once(make: Callable[[], Session], packet: str) -> None:
    session = make()
    assert session.receive(packet)[-1] == Closed(Reason.BAD_PACKET)
    assert session.reason is Reason.BAD_PACKET


CLOSERS: list[tuple[Callable[[Session], list[Event]], Reason]] = [
    (lambda session: session.receive("1"), Reason.CLIENT),
    (lambda session: session.close(), Reason.SERVER),
    (lambda session: session.refuse("why"), Reason.BAD_PACKET),
    (lambda session: session.transport_lost(), Reason.TRANSPORT_CLOSED),
    (lambda session: session.transport_lost(error=True), Reason.TRANSPORT_ERROR),
]


@pytest.mark.parametrize("make", OPEN_STATES)
@pytest.mark.parametrize(("close", "reason"), CLOSERS)
def test_a_session_closes_once_and_its_reason_never_changes(
    make: Callable[[], Session], close: Callable[[Session], list[Event]], reason: Reason
) -> None:
    session = make()
    probe = [ProbeFailed()] if make in (probing, probed) else []
    assert close(session) == [*probe, Closed(reason)]
    for again, _ in CLOSERS:
        assert again(session) == []
    assert session.reason is reason


def test_a_closed_session_takes_and_sends_nothing() -> None:
    session = closed()
    session.send("late")
    assert session.receive("4late") == []
    assert session.receive(b"late") == []
    assert session.data_to_send() == []
    assert session.advance(10**9) == []
    assert not session.begin_probe(0)


# -- polling -----------------------------------------------------------------------------------------------------


def test_a_get_waits_until_there_is_something_to_say() -> None:
    session = waiting()
    assert session.polling
    assert session.poll_data() is None
    session.send("a", b"\x01", "b")
    assert session.queued == 3 + 3 * MESSAGE_COST
    assert session.poll_data() == "4a\x1ebAQ==\x1e4b"
    assert session.queued == 0
    assert not session.polling
    assert session.poll_data() is None


def test_a_second_get_closes_the_session_and_the_first_is_told() -> None:
    session = waiting()
    assert session.begin_poll() == [Closed(Reason.BAD_PACKET)]
    assert session.poll_data() == "1"


def test_a_second_post_closes_the_session() -> None:
    session = posting()
    assert session.begin_post() == [Closed(Reason.BAD_PACKET)]


def test_a_post_may_follow_a_post() -> None:
    session = posting()
    session.end_post()
    assert session.begin_post() == []


def test_a_client_that_closes_is_let_go_with_a_noop() -> None:
    session = waiting()
    session.receive("1")
    assert session.poll_data() == "6"


@pytest.mark.parametrize(("close", "reason"), CLOSERS[1:])
def test_a_client_that_is_put_out_gets_what_was_queued_and_is_told(
    close: Callable[[Session], list[Event]], reason: Reason
) -> None:
    session = waiting()
    session.send("bye")
    close(session)
    assert session.poll_data() == "4bye\x1e1"


# -- upgrade -----------------------------------------------------------------------------------------------------


def test_an_upgrade_loses_nothing_and_lets_the_waiting_get_go() -> None:
    session = waiting()
    assert session.begin_probe(0)
    assert session.poll_data() is None
    assert session.receive_probe("2probe") == []
    assert session.probe_data_to_send() == ["3probe"]
    assert session.poll_data() == "6"
    session.begin_poll()
    assert session.poll_data() == "6"  # also one that comes late
    session.send("queued")
    assert session.data_to_send() == []
    assert session.receive_probe("5") == [Upgraded()]
    assert session.transport is Transport.WEBSOCKET
    assert session.data_to_send() == ["4queued"]


def test_what_is_queued_while_probed_may_still_go_by_the_get_that_waits() -> None:
    session = probing()
    session.receive_probe("2probe")
    session.send("queued")
    assert session.poll_data() == "4queued"


def test_a_get_that_waits_through_the_upgrade_gets_a_noop_and_no_message() -> None:
    session = waiting()
    session.begin_probe(0)
    session.receive_probe("2probe")
    session.receive_probe("5")
    session.send("for the websocket")
    assert session.poll_data() == "6"
    assert session.data_to_send() == ["4for the websocket"]


@pytest.mark.parametrize("make", [probing, probed, websocket, upgraded, closed])
def test_a_second_websocket_may_not_probe(make: Callable[[], Session]) -> None:
    session = make()
    reason = session.reason
    assert not session.begin_probe(0)
    assert session.reason is reason


@pytest.mark.parametrize(
    ("make", "packet"),
    [(probing, "5"), (probing, "4hello"), (probing, "2"), (probing, b"\x01"), (probed, "2probe"), (probed, "4hello")],
)
def test_a_probe_that_breaks_the_rules_fails_and_the_session_goes_on(
    make: Callable[[], Session], packet: str | bytes
) -> None:
    session = make()
    assert session.receive_probe(packet) == [ProbeFailed()]
    assert session.reason is None
    assert session.transport is Transport.POLLING
    assert session.begin_probe(0)  # the client may try again


def test_a_probe_that_is_lost_can_be_lost_once() -> None:
    session = probed()
    assert session.probe_lost() == [ProbeFailed()]
    assert session.probe_lost() == []


def test_a_probe_must_take_over_in_time() -> None:
    session = polling()
    session.begin_probe(0)
    assert session.due_ms() == PING_AT
    assert session.advance(PING_AT) == []
    session.receive("3")
    assert session.advance(999) == []
    session.receive("3")
    assert session.due_ms() == 1_000
    assert session.advance(1_000) == [ProbeFailed()]
    assert session.due_ms() > 1_000


# -- heartbeat ---------------------------------------------------------------------------------------------------


def test_pings_come_at_the_interval_and_pongs_keep_the_session_open() -> None:
    session = websocket()
    now = 0.0
    for _ in range(5):
        now = session.due_ms()
        assert session.advance(now - 1) == []
        assert session.data_to_send() == []
        assert session.advance(now) == []
        assert session.data_to_send() == ["2"]
        assert session.due_ms() == now + 200 / LOOKS
        assert session.advance(now + 199) == []
        session.receive("3")
    assert now == 5 * PING_AT


def test_a_pong_that_does_not_come_closes_the_session_in_time() -> None:
    session = websocket()
    session.advance(PING_AT)
    assert session.advance(PING_AT + 200) == [Closed(Reason.PING_TIMEOUT)]


def test_a_ping_that_is_still_on_its_way_to_a_peer_that_takes_it_is_not_late() -> None:
    session = websocket()
    session.advance(PING_AT)
    look = 200 / LOOKS
    assert not session.is_late(PING_AT + look - 1)
    assert session.is_late(PING_AT + look)
    session.looked(PING_AT + look, moves=True)
    assert session.due_ms() == PING_AT + 2 * look
    assert session.advance(PING_AT + look + 199) == []
    session.looked(PING_AT + look + 199, moves=False)
    assert session.advance(PING_AT + look + 200) == [Closed(Reason.PING_TIMEOUT)]


def test_a_ping_may_go_before_its_time_and_counts_as_the_one_that_would_have_been_due() -> None:
    session = websocket()
    session.data_to_send()
    session.ping(100)
    session.ping(110)
    assert session.has_more
    assert session.data_to_send() == ["2"]
    assert not session.has_more
    session.receive("3")
    assert session.advance(PING_AT) == []
    assert session.data_to_send() == []
    assert session.due_ms() == 100 + PING_AT
    session.close()
    session.ping(1_000)
    assert session.data_to_send() == []


def test_no_second_ping_goes_out_while_a_pong_is_due() -> None:
    slow = SessionSettings(ping_interval_ms=300, ping_timeout_ms=3_000, random=lambda: 0.0)
    session = Session("sid", Transport.WEBSOCKET, slow, 0)
    session.data_to_send()
    session.advance(PING_AT)
    session.advance(PING_AT + 1_000)
    assert session.data_to_send() == ["2"]


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_jitter_only_ever_makes_a_ping_early(chance: float) -> None:
    settings = SessionSettings(ping_interval_ms=1_000, ping_timeout_ms=100, random=lambda: chance)
    session = Session("sid", Transport.WEBSOCKET, settings, 0)
    assert 850 <= session.due_ms() <= 950


# -- any history -------------------------------------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Whatever a client and its transports do: one close, nothing after it, nothing lost, nothing twice."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sent: list[str] = []
        self.delivered: list[str] = []
        self.closes: list[Reason] = []
        self.reason: Reason | None = None

    @initialize(transport=st.sampled_from(Transport))
    def open(self, transport: Transport) -> None:
        self.session = Session("sid", transport, SETTINGS, self.now)
        if transport is Transport.POLLING:
            self.session.begin_poll()
            assert self.session.poll_data()
        else:
            self.session.data_to_send()

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Closed):
                self.closes.append(event.reason)
            else:
                assert self.reason is None, "an event after the close"
        self.deliver(self.session.data_to_send())
        self.reason = self.session.reason

    def deliver(self, packets: list[str | bytes]) -> None:
        for packet in packets:
            assert isinstance(packet, str)
            if packet[0] == "4":
                self.delivered.append(packet[1:])

    @rule(
        packet=st.sampled_from(["4x", "3", "6", "1", "2", "5", "", "4"]) | st.text(max_size=3) | st.binary(max_size=2)
    )
    def receive(self, packet: str | bytes) -> None:
        self.take(self.session.receive(packet))

    @rule(packet=st.sampled_from(["2probe", "2probe", "5", "5", "4x", ""]))
    def receive_probe(self, packet: str) -> None:
        self.take(self.session.receive_probe(packet))
        assert self.session.probe_data_to_send() in ([], ["3probe"])

    @rule()
    def send(self) -> None:
        if self.session.reason is None:
            self.sent.append(str(len(self.sent)))
        self.session.send(str(len(self.sent) - 1) if self.session.reason is None else "late")
        self.take([])

    @precondition(lambda self: self.session.transport is Transport.POLLING)
    @rule()
    def poll(self) -> None:
        self.take(self.session.begin_poll())

    @rule()
    def answer(self) -> None:
        body = self.session.poll_data()
        if body is not None:
            self.deliver(list(body.split("\x1e")))

    @rule()
    def post(self) -> None:
        self.take(self.session.begin_post())
        self.session.end_post()

    @rule()
    def begin_probe(self) -> None:
        self.session.begin_probe(self.now)

    @rule()
    def lose_probe(self) -> None:
        self.take(self.session.probe_lost())

    @rule(elapsed=st.floats(0, 400))
    def advance(self, elapsed: float) -> None:
        self.now += elapsed
        if self.session.is_late(self.now):
            self.session.looked(self.now, moves=False)
        self.take(self.session.advance(self.now))
        if self.session.reason is None:
            assert self.session.due_ms() > self.now

    @rule(error=st.booleans())
    def lose(self, error: bool) -> None:
        self.take(self.session.transport_lost(error=error))

    @rule()
    def close(self) -> None:
        self.take(self.session.close())

    @invariant()
    def closes_once(self) -> None:
        assert len(self.closes) <= 1
        if self.closes:
            assert self.session.reason is self.closes[0]

    @invariant()
    def nothing_is_reordered_or_repeated(self) -> None:
        assert self.delivered == self.sent[: len(self.delivered)]

    @invariant()
    def nothing_is_lost_while_open_on_a_websocket(self) -> None:
        if getattr(self, "session", None) is not None and self.session.reason is None:
            if self.session.transport is Transport.WEBSOCKET:
                assert self.delivered == self.sent


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = hypothesis_settings(max_examples=80, stateful_step_count=40)
