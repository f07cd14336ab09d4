"""Who is told of each batch: all of them, in order, though one raises."""

from collections.abc import Callable
from functools import partial

from herenow.registry.base import Batch, Subscriber
from herenow.supervision import OnFault


class Subscribers:
    """The subscribers of one registry.

    Args:
        on_fault: told of one that raises.
    """

    def __init__(self, on_fault: OnFault) -> None:
        self._on_fault = on_fault
        self._all: list[Subscriber] = []

    def add(self, subscriber: Subscriber) -> Callable[[], None]:
        """Tell ``subscriber`` from now on; returns what ends that, once or again."""
        # A wrapper of its own for each subscription: the same function subscribed twice is called twice, and each
        # unsubscribe ends its own.
        subscription = partial(subscriber)
        self._all.append(subscription)

        def unsubscribe() -> None:
            if subscription in self._all:
                self._all.remove(subscription)

        return unsubscribe

    def tell(self, batch: Batch) -> None:
        """Tell all who were there at the call."""
        for subscriber in tuple(self._all):
            try:
                subscriber(batch)
            except Exception as error:  # the subscriber's own: reported, and no harm to the others
                self._on_fault("a subscriber of the registry", error)
