"""Events: every change once, in order, and a reader that was away can go on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import islice

import msgspec

from sandnet.core.state.events import (
    AHEAD_BYTES,
    HISTORY,
    PLACES,
    REMEMBERED_BYTES,
    Event,
    Events,
    PendingEvent,
    Transition,
    event_weight,
    events_of,
)
from sandnet.model import Endpoint, Network, Phase
from sandnet.stores.base import Put
from tests.support.core_in_process import CoreInProcess


def _network(name: str, phase: Phase = Phase.READY) -> Network:
    return Network(id=name * 64, name=name, driver="bridge", phase=phase, sequence=1, created=0.0)


async def _take(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await asyncio.wait_for(anext(events), 20) for _ in range(count)]


def _summary(event: Event) -> tuple[str, str]:
    return event.action, type(event.subject).__name__


async def _life(core: CoreInProcess) -> list[Event]:
    """What is reported of a network, an endpoint and a container from first to last, when all are gone."""
    since = core.controller.events.last
    await core.network()
    await core.endpoint("web")
    await core.join("c1", "web")
    await core.controller.sandboxes.leave("foo", "web", "c1")
    await core.controller.removal.endpoint("foo", "web")
    await core.controller.removal.network("foo")
    return await _take(core.controller.events.follow(since), 8)


async def test_each_change_is_emitted_once_and_in_order(core: CoreInProcess) -> None:
    events = await _life(core)
    assert [_summary(event) for event in events] == [
        ("created", "Network"),
        ("created", "Endpoint"),
        ("created", "Sandbox"),
        ("attached", "Attachment"),
        ("detached", "Attachment"),
        ("removed", "Sandbox"),
        ("removed", "Endpoint"),
        ("removed", "Network"),
    ]
    numbers = [event.sequence for event in events]
    assert numbers == sorted(set(numbers))


async def test_reader_starting_now_is_woken_by_the_next_change(core: CoreInProcess) -> None:
    following = asyncio.ensure_future(_take(core.controller.events.follow(), 1))
    await asyncio.sleep(0)
    await core.network()
    assert [_summary(event) for event in await following] == [("created", "Network")]


async def test_numbers_continue_after_restart_and_report_missed_events(core: CoreInProcess) -> None:
    await core.network()
    last = core.controller.events.last
    await core.endpoint("web")
    await core.start()
    await core.endpoint("db")
    missed, next_one = await _take(core.controller.events.follow(last), 2)
    assert missed.action == "missed"
    assert isinstance(next_one.subject, Endpoint)
    assert next_one.subject.name == "db"
    assert last < missed.sequence < next_one.sequence


async def test_up_to_date_reader_misses_nothing_over_a_restart(core: CoreInProcess) -> None:
    await core.network()
    await core.endpoint("web")
    await core.join("c1", "web")
    last = core.controller.events.last
    await core.store.commit(Put("sysctl/a", b"1"))  # a commit that no one outside hears of
    await core.start()
    assert core.controller.events.last == last
    following = asyncio.ensure_future(_take(core.controller.events.follow(last), 1))
    await asyncio.sleep(0)
    await core.endpoint("db")
    assert [_summary(event) for event in await following] == [("created", "Endpoint")]


async def test_past_events_use_the_names_of_their_time(core: CoreInProcess) -> None:
    events = await _life(core)
    named = {"Endpoint": ("foo", ""), "Attachment": ("foo", "web"), "Network": ("", ""), "Sandbox": ("", "")}
    assert [(event.network, event.service) for event in events] == [named[_summary(event)[1]] for event in events]


async def test_slow_reader_is_notified_of_dropped_events_and_continues() -> None:
    events = Events()
    for revision in range(1, HISTORY + 3):
        events.publish(revision, events_of([Transition(None, _network("a"))]))
    first, second = await _take(events.follow(PLACES), 2)
    assert first.action == "missed"
    assert second.sequence > first.sequence
    assert second.sequence == 3 * PLACES


async def test_event_streams_end_as_the_daemon_stops() -> None:
    events = Events()
    following = events.follow()
    waiting = asyncio.ensure_future(anext(following, None))
    await asyncio.sleep(0)
    events.close()
    assert await asyncio.wait_for(waiting, 20) is None


def test_intermediate_phases_emit_no_event() -> None:
    events = Events()
    events.publish(1, events_of([Transition(None, _network("a", Phase.CREATING))]))
    events.publish(2, events_of([Transition(_network("a", Phase.CREATING), None)]))
    assert events.last == 0


def test_changes_of_one_commit_have_separate_numbers() -> None:
    events = Events()
    events.publish(7, events_of([Transition(None, _network(name)) for name in islice("abcdef", 3)]))
    assert events.last == 7 * PLACES + 2


def _large(name: str) -> Endpoint:
    labels = {f"{name}{index}": "x" * 1000 for index in range(60)}
    return Endpoint(id=name * 64, network_id="n", name=name, phase=Phase.READY, sequence=1, created=0.0, labels=labels)


async def test_large_events_are_bounded_in_bytes_and_drops_reported() -> None:
    events = Events()
    for revision in range(1, 2001):
        events.publish(revision, events_of([Transition(None, _large("e"))]))
    held = sum(map(event_weight, events._history))
    assert events._weight == held
    assert REMEMBERED_BYTES / 2 < held <= REMEMBERED_BYTES
    first = await _take(events.follow(0), 2)
    assert [event.action for event in first] == ["missed", "created"]


async def test_single_event_over_the_byte_limit_is_kept() -> None:
    events = Events()
    huge = _large("e")
    labels = {"a": "x" * (REMEMBERED_BYTES + 1)}
    for revision in (1, 2):
        events.publish(revision, events_of([Transition(None, msgspec.structs.replace(huge, labels=labels))]))
    assert len(events._history) == 1
    assert (await _take(events.follow(PLACES), 1))[0].action == "created"


async def test_stalled_reader_uses_little_memory_and_misses_nothing() -> None:
    events = Events()
    for revision in range(1, 201):
        events.publish(revision, events_of([Transition(None, _large("e"))]))
    batch = events._after(0)
    assert len(batch) > 1
    assert sum(map(event_weight, batch)) <= AHEAD_BYTES
    assert [event.sequence for event in await _take(events.follow(0), 200)] == [n * PLACES for n in range(1, 201)]


def test_network_labels_count_towards_the_event_size() -> None:
    labelled = msgspec.structs.replace(_network("a"), labels={"a": "x" * 50_000})
    assert event_weight(Event(1, 0.0, "created", labelled)) > 50_000


async def test_reader_at_the_end_does_not_walk_the_history() -> None:
    class OnlyFromItsEnd(deque[Event]):
        """A history that is long: reaching its end from its beginning would take long, too."""

        def __iter__(self) -> Iterator[Event]:
            raise AssertionError("read from the beginning")

        def __getitem__(self, index: object) -> Event:  # type: ignore[override]
            assert index == -1
            return super().__getitem__(-1)

    events = Events()
    events._history = OnlyFromItsEnd()
    for revision in range(1, 100):
        events.publish(revision, [PendingEvent("created", _network("n"), "", "")])
    reader = events.follow(98 * PLACES)
    assert [event.sequence for event in await _take(reader, 1)] == [99 * PLACES]


async def test_listener_is_called_before_the_change_is_answered(core: CoreInProcess) -> None:
    received: list[tuple[str, str]] = []

    def listener(event: Event) -> None:
        received.append(_summary(event))

    core.controller.events.listen(listener)
    await core.network()
    assert received == [("created", "Network")]
    core.controller.events.ignore(listener)
    await core.endpoint("web")
    assert len(received) == 1


async def test_failing_listener_spoils_no_change_and_no_other_listener(core: CoreInProcess) -> None:
    received: list[Event] = []

    def failing(event: Event) -> None:
        raise ValueError("on purpose")

    core.controller.events.listen(failing)
    core.controller.events.listen(received.append)
    await core.network()
    assert [_summary(event) for event in received] == [("created", "Network")]
    assert core.controller.events.last == received[0].sequence
