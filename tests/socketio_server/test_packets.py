"""The codecs of Engine.IO v4 and Socket.IO v5."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herenow.socketio_server.errors import BadPacket
from herenow.socketio_server.packets import (
    ATTACHMENT_COST,
    MAX_DEPTH,
    RESERVED_EVENTS,
    Decoder,
    Packet,
    PacketType,
    decode_text,
    encode,
    encode_payload,
    split_payload,
)

MEGABYTE = 1_000_000


def decode(*messages: str | bytes) -> Packet | None:
    decoder = Decoder(MEGABYTE)
    packet = None
    for message in messages:
        packet = decoder.feed(message)
    return packet


# -- Engine.IO ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", "0123456")
def test_every_packet_type_is_decoded(kind: str) -> None:
    assert decode_text(kind + "data") == (kind, "data")
    assert decode_text(kind) == (kind, "")


def test_base64_is_a_binary_message() -> None:
    assert decode_text("bAQIDBA==") == ("4", b"\x01\x02\x03\x04")


@pytest.mark.parametrize("text", ["", "7", "abc", "x", "b&&&", "bAQIDB", "bé", "\x00", "-4", "b=AQI"])
def test_what_is_no_engineio_packet_is_refused(text: str) -> None:
    with pytest.raises(BadPacket):
        decode_text(text)


def test_a_payload_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(BadPacket, match="UTF-8"):
        split_payload(b"4\xff")


texts = st.text(st.characters(exclude_characters="\x1e", exclude_categories=["Cs"]))


@given(st.lists(st.one_of(texts, st.binary()), min_size=1))
def test_a_payload_comes_back_as_it_went(messages: list[str | bytes]) -> None:
    packets = ["4" + message if isinstance(message, str) else message for message in messages]
    parts = split_payload(encode_payload(packets).encode())
    assert [decode_text(part) for part in parts] == [("4", message) for message in messages]


# -- Socket.IO: the examples of the document ---------------------------------------------------------------------

EXAMPLES: list[tuple[Packet, tuple[str | bytes, ...]]] = [
    (Packet(PacketType.CONNECT), ("0",)),
    (Packet(PacketType.CONNECT, "/admin", {"sid": "oSO0"}), ('0/admin,{"sid":"oSO0"}',)),
    (Packet(PacketType.CONNECT_ERROR, "/", {"message": "Not authorized"}), ('4{"message":"Not authorized"}',)),
    (Packet(PacketType.EVENT, "/", ["foo"]), ('2["foo"]',)),
    (Packet(PacketType.EVENT, "/admin", ["bar"]), ('2/admin,["bar"]',)),
    (
        Packet(PacketType.EVENT, "/", ["baz", b"\x01\x02\x03\x04"]),
        ('51-["baz",{"_placeholder":true,"num":0}]', b"\x01\x02\x03\x04"),
    ),
    (
        Packet(PacketType.EVENT, "/admin", ["baz", b"\x01\x02", b"\x03\x04"]),
        (
            '52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
            b"\x01\x02",
            b"\x03\x04",
        ),
    ),
    (Packet(PacketType.EVENT, "/", ["foo"], 12), ('212["foo"]',)),
    (Packet(PacketType.ACK, "/admin", ["bar"], 13), ('3/admin,13["bar"]',)),
    (
        Packet(PacketType.ACK, "/", ["bar", b"\x01\x02\x03\x04"], 15),
        ('61-15["bar",{"_placeholder":true,"num":0}]', b"\x01\x02\x03\x04"),
    ),
    (Packet(PacketType.ACK, "/", [], 1), ("31[]",)),
    (Packet(PacketType.DISCONNECT), ("1",)),
    (Packet(PacketType.DISCONNECT, "/admin"), ("1/admin,",)),
    (
        Packet(PacketType.CONNECT, "/admin", {"t": 1}, query="token=1234&uid=abcd"),
        ('0/admin?token=1234&uid=abcd,{"t":1}',),
    ),
]


@pytest.mark.parametrize(("packet", "messages"), EXAMPLES, ids=lambda value: str(value)[:40])
def test_the_documents_examples(packet: Packet, messages: tuple[str | bytes, ...]) -> None:
    assert encode(packet) == messages
    assert decode(*messages) == packet


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0/custom", Packet(PacketType.CONNECT, "/custom")),  # the comma may be missing where nothing follows
        ("1/custom", Packet(PacketType.DISCONNECT, "/custom")),
        ('50-["a"]', Packet(PacketType.EVENT, "/", ["a"])),
        ("2[5]", Packet(PacketType.EVENT, "/", [5])),  # the reference parser lets a number be a name
        ('4"no"', Packet(PacketType.CONNECT_ERROR, "/", "no")),
        ('4"' + "[" * 200 + '"', Packet(PacketType.CONNECT_ERROR, "/", "[" * 200)),
        ('29007199254740991["a"]', Packet(PacketType.EVENT, "/", ["a"], 2**53 - 1)),
        (f'2["a","{"[{" * 200}"]', Packet(PacketType.EVENT, "/", ["a", "[{" * 200])),  # brackets are not depth
    ],
)
def test_what_else_is_allowed(text: str, packet: Packet) -> None:
    assert decode(text) == packet


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "abc",
        "-1",
        "٢[]",  # a digit, but not ASCII's
        "2",  # "The payload is mandatory and MUST be a non-empty array."
        "2{}",
        "2[]",
        '2"a"',
        "2[true]",
        "2[null]",
        "2[[]]",
        '2["a"',
        '2["a"]x',
        '2abc["a"]',
        "2-1",
        '2["a",NaN]',
        '2["a",1e999]',
        '212345678901234567["a"]',
        "3",
        "31",
        "31{}",
        '3["a"]',  # an acknowledgement of nothing
        "0[]",
        "0null1",
        '0"token"',
        "1{}",
        "1[]",
        "4",
        "4[]",
        "41",
        '5["a"]',
        '5-["a"]',
        '5x-["a"]',
        '5-1-["a"]',
        '5²-["a"]',
        '512345678-["a"]',
        '51["a"]',
    ],
)
def test_what_is_no_socketio_packet_is_refused(text: str) -> None:
    with pytest.raises(BadPacket):
        decode(text)


@pytest.mark.parametrize("name", sorted(RESERVED_EVENTS))
def test_a_reserved_name_is_refused_from_the_wire(name: str) -> None:
    with pytest.raises(BadPacket, match="reserved"):
        decode(f'2["{name}"]')


# -- binary ------------------------------------------------------------------------------------------------------


def test_an_attachment_without_its_packet_is_refused() -> None:
    with pytest.raises(BadPacket, match="without its packet"):
        decode(b"\x01")


def test_text_in_place_of_an_attachment_is_refused() -> None:
    with pytest.raises(BadPacket, match="attachment was due"):
        decode('51-["a",{"_placeholder":true,"num":0}]', '2["b"]')


@pytest.mark.parametrize("number", ["1", "-1", "true", '"0"', "null", "0.0"])
def test_a_placeholder_must_name_an_attachment(number: str) -> None:
    with pytest.raises(BadPacket, match="placeholder"):
        decode(f'51-["a",{{"_placeholder":true,"num":{number}}}]', b"\x01")


def test_placeholders_may_be_nested_and_in_any_order() -> None:
    text = '52-["a",{"x":[{"_placeholder":true,"num":1}]},{"_placeholder":true,"num":0}]'
    assert decode(text, b"\x01", b"\x02") == Packet(PacketType.EVENT, "/", ["a", {"x": [b"\x02"]}, b"\x01"])


def test_an_attachment_goes_to_one_place_only() -> None:
    """A megabyte that thirty thousand placeholders name would be thirty gigabytes when a handler sends it back."""
    with pytest.raises(BadPacket, match="same attachment"):
        decode('51-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]', b"\x01")


def test_what_only_looks_like_a_placeholder_is_left() -> None:
    packet = decode('51-["a",{"_placeholder":1,"num":0},{"_placeholder":true,"num":0}]', b"\x01")
    assert packet == Packet(PacketType.EVENT, "/", ["a", {"_placeholder": 1, "num": 0}, b"\x01"])


def test_the_next_packet_begins_afresh() -> None:
    decoder = Decoder(MEGABYTE)
    for value in (b"\x01", b"\x02"):
        assert decoder.feed('51-["a",{"_placeholder":true,"num":0}]') is None
        assert decoder.feed(value) == Packet(PacketType.EVENT, "/", ["a", value])


def test_attachments_are_bounded_in_bytes() -> None:
    decoder = Decoder(1_000)
    decoder.feed('52-["a",{"_placeholder":true,"num":0}]')
    decoder.feed(bytes(500))
    with pytest.raises(BadPacket, match="too large"):
        decoder.feed(bytes(500))


def test_attachments_are_bounded_in_number_before_the_first_has_come() -> None:
    head = '2["a"]'
    allowed = (MEGABYTE - len(head) - 10) // ATTACHMENT_COST
    assert Decoder(MEGABYTE).feed(f'5{allowed}-["a"]') is None
    with pytest.raises(BadPacket, match="more attachments"):
        Decoder(MEGABYTE).feed('59999999-["a"]')


# -- hostile or merely odd JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5_000, 100_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_deep_json_is_refused(depth: int, left: str, right: str) -> None:
    value = left * depth + ("1" if right == "}" else "") + right * depth
    with pytest.raises(BadPacket):
        decode(f'2["a",{value}]')


def test_a_megabyte_of_containers_is_refused_and_long_flat_data_is_not() -> None:
    with pytest.raises(BadPacket, match="too many"):
        decode('2["a",[' + "[]," * 30_000 + "1]]")
    flat = decode('2["a",[' + "1," * 200_000 + "1]]")
    assert flat is not None
    assert encode(flat)[0] == '2["a",[' + "1," * 200_000 + "1]]"


def test_the_deepest_json_that_is_allowed_can_be_sent_back() -> None:
    value = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    packet = decode(f'2["a",{value}]')
    assert packet is not None
    assert encode(packet) == (f'2["a",{value}]',)


def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    r"""A status text cut in the middle of an emoji: JavaScript sends "\ud83d". It must not close the connection."""
    packet = decode(r'2["say","\ud83d cut","\ud83d\ude00 whole"]')
    assert packet == Packet(PacketType.EVENT, "/", ["say", "� cut", "\U0001f600 whole"])


@pytest.mark.parametrize(
    "payload", [r'["a","\ud83d"', r'["a","\ud83d",NaN]', r'["a","\udZZZ"]', '["\\ud83d",' + "[" * 100_000]
)
def test_half_a_surrogate_pair_does_not_excuse_other_faults(payload: str) -> None:
    with pytest.raises(BadPacket):
        decode("2" + payload)


def test_numbers_with_large_exponents_cost_no_more_than_others() -> None:
    """A megabyte of them once took two seconds to decode, against 20 ms for ``1.5``."""
    numbers = MEGABYTE // 6 - 10
    began = time.process_time()
    packet = decode('2["a",' + "1e300," * numbers + "1]")
    assert time.process_time() - began < 1
    assert packet is not None
    assert packet.data == ["a", *[1e300] * numbers, 1]


def test_what_json_cannot_express_is_the_callers_error() -> None:
    with pytest.raises(TypeError):
        encode(Packet(PacketType.EVENT, "/", ["a", object()]))
    with pytest.raises(ValueError, match="surrogates"):
        encode(Packet(PacketType.EVENT, "/", ["a", "\ud83d"]))
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper"):
        encode(Packet(PacketType.EVENT, "/", ["a", deep]))


# -- any packet --------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text
)
values = st.recursive(
    scalars | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(text.filter(lambda key: key != "_placeholder"), inner, max_size=4)
    ),
    max_leaves=12,
)
namespaces = st.just("/") | st.text(st.characters(exclude_characters=",?", exclude_categories=["Cs"])).map(
    lambda name: "/" + name
)
ids = st.none() | st.integers(0, 2**53 - 1)
events = st.builds(
    lambda name, args: [name, *args],
    text.filter(lambda name: name not in RESERVED_EVENTS),
    st.lists(values, max_size=4),
)
packets = st.one_of(
    st.builds(Packet, st.just(PacketType.EVENT), namespaces, events, ids),
    st.builds(Packet, st.just(PacketType.ACK), namespaces, st.lists(values, max_size=4), st.integers(0, 2**53 - 1)),
    st.builds(
        Packet,
        st.just(PacketType.CONNECT),
        namespaces,
        st.none() | st.dictionaries(text, scalars, max_size=4),
    ),
    st.builds(Packet, st.just(PacketType.DISCONNECT), namespaces),
    st.builds(Packet, st.just(PacketType.CONNECT_ERROR), namespaces, st.dictionaries(text, scalars, max_size=4) | text),
)


@given(packets)
def test_any_packet_comes_back_as_it_went(packet: Packet) -> None:
    messages = encode(packet)
    assert decode(*messages) == packet


@given(packets)
def test_what_is_sent_is_what_the_reference_parser_reads(packet: Packet) -> None:
    head, *attachments = encode(packet)
    assert isinstance(head, str)
    assert attachments == [part for part in attachments if isinstance(part, bytes)]
    bracket = min((at for at in (head.find(c) for c in '[{"') if at >= 0), default=len(head))
    if packet.data is not None and packet.namespace == "/":
        json.loads(head[bracket:])  # the payload is JSON from its first bracket on


@given(st.lists(st.text() | st.binary(), max_size=5))
def test_any_messages_give_packets_or_a_documented_error(messages: list[str | bytes]) -> None:
    decoder = Decoder(MEGABYTE)
    for message in messages:
        try:
            packet = decoder.feed(message)
        except BadPacket:
            return
        assert packet is None or isinstance(packet, Packet)


digits = st.from_regex(r"\A[0-6]\d{0,3}-?(/[a-z?=]{0,5},)?\d{0,3}[\[{\"]?.{0,20}\Z")


@given(digits)
def test_nearly_right_text_gives_a_packet_or_a_documented_error(message: str) -> None:
    try:
        Decoder(MEGABYTE).feed(message)
    except BadPacket as error:
        assert str(error)
