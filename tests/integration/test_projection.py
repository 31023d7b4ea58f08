"""The tables are a function of the records read. Held against a real PostgreSQL and the log in lists."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers import project
from consumers.rows import fact
from infra import database
from infra.log import Record
from infra.memory import MemoryLog
from infra.postgres import Database, Refused, Tables
from infra.problems import BadInput, Busy, ServiceUnavailable
from schemas.events import (
    ApplicationRegistered,
    DeadLettered,
    Event,
    Offset,
    RequirementsDrafted,
    RewardScored,
    SuiteRan,
)
from schemas.topics import ID_HEADER, KINDS
from tests import histories as past
from tests.whole_run import verified, whole_run, written

NUMBERS = count()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database.running(tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
def tables_of(address: str) -> Iterator[Callable[[], Database]]:
    """New tables at each call, gone after the test."""
    made: list[Database] = []

    def make() -> Database:
        made.append(Database(address, f"tables-{next(NUMBERS)}"))
        return made[-1]

    yield make
    with psycopg.connect(address, autocommit=True) as connection:
        for each in made:
            connection.execute(f'DROP SCHEMA IF EXISTS "{each.schema}" CASCADE')


@pytest.fixture(scope="module")
def emptied(address: str) -> Database:
    """Tables that each example makes anew."""
    return Database(address, "emptied")


def published(events: Sequence[Event], seed: int = 0) -> MemoryLog:
    log = MemoryLog(partitions=3, seed=seed)
    log.publish(events)
    return log


def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database.address) as connection:
        connection.execute(f'SET search_path = "{database.schema}", public')
        return connection.execute(query).fetchall()


def one(database: Database, query: str) -> object:
    [(value,)] = rows(database, query)
    return value


def stands_at(database: Database, log: MemoryLog) -> bool:
    with database.tables() as tables:
        return tables.offsets() == {(end.topic, end.partition): end.offset for end in log.end_offsets() if end.offset}


# ---- A function of the records read ---------------------------------------------------------------------------------


def test_every_fact_of_a_run_is_a_row_and_nothing_waits(tables_of: Callable[[], Database]) -> None:
    events, tables = list(whole_run()), tables_of()
    project.catch_up(published(events), tables)
    for table in project.TABLES:
        expected = {said.id for said in map(fact, events) if said.table == table}
        assert {row_id for (row_id,) in rows(tables, f"SELECT id FROM {table}")} == expected
    assert one(tables, "SELECT count(*) FROM parked") == 0


def test_what_is_written_comes_back_equal(tables_of: Callable[[], Database]) -> None:
    events, tables = list(whole_run()), tables_of()
    project.catch_up(published(events), tables)
    rebuild = next(event for event in events if type(event).__name__ == "ImplementationWritten")
    draft = next(event for event in events if isinstance(event, RequirementsDrafted))
    suite = next(event for event in events if isinstance(event, SuiteRan) and event.results)
    found = rows(tables, f"SELECT * FROM implementations WHERE id = '{rebuild.event_id}'")
    assert fact(rebuild).rows[0][1]["file_contents"] in found[0]
    assert rows(tables, f"SELECT log_probs, recorded_at FROM drafts WHERE id = '{draft.event_id}'") == [
        (list(draft.log_probs), draft.recorded_at)
    ]
    columns = "test_id, outcome, seconds, message"
    results = rows(tables, f"SELECT {columns} FROM test_results WHERE suite_id = '{suite.event_id}' ORDER BY place")
    assert results == [(each.test_id, each.outcome.value, each.seconds, each.message) for each in suite.results]


@pytest.mark.parametrize("cut_at", [0, 13, 40, 61])
def test_a_rebuild_equals_the_live_tables_in_the_middle_of_a_run(
    tables_of: Callable[[], Database], cut_at: int
) -> None:
    events, live = list(whole_run(rounds=3)), tables_of()
    log = MemoryLog(partitions=3)
    log.publish(events[: cut_at // 2])
    project.catch_up(log, live)
    log.publish(events[cut_at // 2 : cut_at])
    cut = log.end_offsets()
    project.catch_up(log, live, until=cut)
    log.publish(events[cut_at:])
    before = project.fingerprint(live)
    project.rebuild(log, live, until=cut)
    assert project.fingerprint(live) == before
    project.rebuild(log, live)
    project.catch_up(log, again := tables_of())
    assert project.fingerprint(live) == project.fingerprint(again) != before


HISTORY = [
    event
    for event in whole_run()
    for _ in range(2 if isinstance(event, RewardScored | RequirementsDrafted) else 1)  # late doubles in every history
]


@given(seed=st.integers(0, 2**32 - 1), missing=st.sets(st.integers(0, len(HISTORY) - 1), max_size=3))
@settings(max_examples=12, deadline=None)
def test_batches_interleavings_and_redelivery_change_nothing(emptied: Database, seed: int, missing: set[int]) -> None:
    """The fold law, also where some facts never came and all after them must wait."""
    chance = random.Random(seed)
    log = published([event for index, event in enumerate(HISTORY) if index not in missing], seed=seed)
    with emptied.fresh_tables() as tables:
        fold_in_pieces(tables, list(log.replay(KINDS)), chance)  # all topics interleaved: children before parents
        found = tables.fingerprint()
    project.rebuild(log, emptied)
    assert found == project.fingerprint(emptied)


def fold_in_pieces(tables: Tables, records: Sequence[Record], chance: random.Random) -> None:
    at = 0
    while at < len(records):
        end = at + chance.choice((1, 2, 5, 30))
        again = records[chance.randint(0, end) : chance.randint(0, end)]
        project.apply(tables, [*records[at:end], *again], tables.offsets())
        at = end


# ---- First facts, waiting facts, facts that cannot be held ----------------------------------------------------------


def test_the_first_fact_of_an_id_wins_and_a_late_one_changes_nothing(tables_of: Callable[[], Database]) -> None:
    app = past.application()
    draw = past.drawn(app)
    first, late = past.drafted(draw, text="first"), past.drafted(draw, text="late")
    log, tables = published([app, past.run_started(), past.round_opened(), draw, first, late]), tables_of()
    project.catch_up(log, tables)
    log.publish([late])
    project.catch_up(log, tables)
    assert rows(tables, "SELECT text FROM drafts") == [("first",)]


def test_a_fact_whose_parent_is_not_there_waits_and_holds_up_nothing(tables_of: Callable[[], Database]) -> None:
    app = past.application()
    draw = past.drawn(app)
    draft = past.drafted(draw)
    rebuild = written(draft, 0)
    log, tables = published([past.run_started(), past.round_opened(), draw, draft, rebuild]), tables_of()
    project.catch_up(log, tables)
    assert set(rows(tables, "SELECT table_name, fact_id, cause FROM parked")) == {
        ("draws", draw.event_id, f"waits for {app.application_id} in applications"),
        ("drafts", draft.event_id, f"waits for {draw.event_id} in draws"),
        ("implementations", rebuild.event_id, f"waits for {draft.event_id} in drafts"),
    }
    log.publish([app])
    project.catch_up(log, tables)
    assert rows(tables, "SELECT id FROM implementations") == [(rebuild.event_id,)]
    assert one(tables, "SELECT count(*) FROM parked") == 0


def test_a_waiting_fact_keeps_its_id_against_a_later_one(tables_of: Callable[[], Database]) -> None:
    """The later one is complete at once, yet the earlier one is the fact: as it would be, read in one go."""
    app = past.application()
    draw = past.drawn(app)
    first, late = replace(past.drafted(draw), caused_by=("later",)), past.drafted(draw, text="late")
    log, tables = published([app, past.run_started(), past.round_opened(), draw, first]), tables_of()
    project.catch_up(log, tables)
    log.publish([late])
    project.catch_up(log, tables)
    assert rows(tables, "SELECT fact_id FROM parked") == [(first.event_id,)]
    log.publish([replace(draw, event_id="later")])
    project.catch_up(log, tables)
    assert rows(tables, "SELECT draw_id, text FROM drafts") == [("later", first.text)]
    project.rebuild(log, again := tables_of())
    assert project.fingerprint(again) == project.fingerprint(tables)


def test_what_cannot_be_read_is_parked_with_its_cause(tables_of: Callable[[], Database]) -> None:
    log, tables = published([past.application()]), tables_of()
    log.publish_bytes("applications", "key", b"not a frame")
    project.catch_up(log, tables)
    [(cause,)] = rows(tables, "SELECT cause FROM parked")
    assert str(cause).startswith("unreadable: ")
    assert one(tables, "SELECT count(*) FROM applications") == 1


def unfit() -> ApplicationRegistered:
    """An id too long for an index."""
    name = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
    return replace(past.application(source="x = 0\n"), application_id=name, event_id="unfit")


def test_the_live_projector_buries_what_is_parked_for_good_under_the_same_name_each_time(
    tables_of: Callable[[], Database],
) -> None:
    log = published([past.application(), unfit()])
    log.publish_bytes("applications", "key", b"no frame", [(ID_HEADER, "the id it was to have")])
    written: list[list[DeadLettered]] = []
    for _ in range(2):
        with tables_of().tables() as tables:
            letters: list[DeadLettered] = []
            project._catch_up(log, tables, log.end_offsets(), lambda: False, bury=letters.extend)
            written.append(letters)
    first, again = ([(each.event_id, each.caused_by, each.offset) for each in letters] for letters in written)
    assert first == again
    assert sorted(caused_by for _, caused_by, _ in first) == [("the id it was to have",), ("unfit",)]


def test_what_the_tables_still_refuse_stays_parked(tables_of: Callable[[], Database]) -> None:
    log, tables = published([unfit()]), tables_of()
    project.catch_up(log, tables)
    [record] = log.replay((ApplicationRegistered,))
    before = project.fingerprint(tables)
    with pytest.raises(Refused):
        project.admit(tables, record)
    assert project.fingerprint(tables) == before


def test_what_the_database_cannot_hold_is_parked_with_its_cause(tables_of: Callable[[], Database]) -> None:
    """One among many facts that are fine; what refers to it waits."""
    apps, bad = [past.application(source=f"x = {n}\n") for n in range(9)], unfit()
    log, tables = published([*apps, bad, verified(bad)]), tables_of()
    project.catch_up(log, tables)
    assert one(tables, "SELECT count(*) FROM applications") == 9
    causes = [str(cause) for (cause,) in rows(tables, "SELECT cause FROM parked ORDER BY cause")]
    assert [cause.split()[0] for cause in causes] == ["refused:", "waits"]
    project.rebuild(log, again := tables_of())
    assert project.fingerprint(again) == project.fingerprint(tables)


def test_a_nul_is_shown_as_its_picture(tables_of: Callable[[], Database]) -> None:
    app = past.application(name="a\x00b")
    project.catch_up(published([app]), tables := tables_of())
    assert rows(tables, "SELECT name FROM applications") == [("a␀b",)]


def test_an_update_leads_back_to_code_and_prompt(tables_of: Callable[[], Database]) -> None:
    project.catch_up(published(list(whole_run())), tables := tables_of())
    lineage = """
        SELECT count(*) FROM updates
        JOIN update_rewards ON update_id = updates.id
        JOIN rewards ON rewards.id = reward_id
        JOIN drafts ON drafts.id = rewards.requirements_id
        JOIN implementations ON implementations.requirements_id = drafts.id
        JOIN suites ON implementation_id = implementations.id
        WHERE suites.id = ANY(rewards.suite_ids) AND array_length(implementations.file_paths, 1) = 2
          AND array_length(drafts.prompt_token_ids, 1) = 2
    """
    assert one(tables, lineage) == 4


# ---- Deaths, twins and rebuilds while the log grows -----------------------------------------------------------------

HALF_WAY = """
import sys
from consumers import project
from infra.postgres import Database
from tests.integration.test_projection import published
from tests.whole_run import whole_run

address, schema, place = sys.argv[1:]
log = published(list(whole_run(rounds=6)))
folded = 0


def wait_to_be_killed(*_: object) -> None:
    print("here", flush=True)
    sys.stdin.read()


def until_killed(*arguments, fold=project.apply):
    global folded
    folded += 1
    if folded == 9:
        if place == "within":
            arguments[0].advance = wait_to_be_killed
        else:
            wait_to_be_killed()
    return fold(*arguments)


project.BATCH = 7
project.apply = until_killed
project.catch_up(log, Database(address, schema))
"""


@pytest.mark.parametrize("place", ["between", "within"])
def test_a_projector_killed_at_any_point_loses_nothing_and_doubles_nothing(
    tables_of: Callable[[], Database], place: str
) -> None:
    tables, log = tables_of(), published(list(whole_run(rounds=6)))
    kill_half_way(tables, place)
    assert one(tables, "SELECT count(*) FROM applications") == 2
    assert not stands_at(tables, log)
    project.catch_up(log, tables)
    project.rebuild(log, again := tables_of())
    assert project.fingerprint(tables) == project.fingerprint(again)


def kill_half_way(tables: Database, place: str) -> None:
    command = [sys.executable, "-c", HALF_WAY, tables.address, tables.schema, place]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        child.kill()


def test_a_projector_stands_by_and_a_rebuild_disturbs_none(tables_of: Callable[[], Database]) -> None:
    events, tables = list(whole_run(rounds=8)), tables_of()
    log = MemoryLog(partitions=3)
    stops = [threading.Event(), threading.Event()]
    projectors = [threading.Thread(target=partial(project.project, log, tables, stop=stop.is_set)) for stop in stops]
    for each in projectors:
        each.start()
    try:
        for start in range(0, len(events), 20):
            log.publish(events[start : start + 20])
            project.rebuild(log, tables)
            assert stands_at(tables, log)
            log.publish([past.application(source=f"beside = {start}\n")])
            project.catch_up(log, tables)
            if start == 80:
                stops[0].set()
                projectors[0].join()
        wait_until(lambda: stands_at(tables, log))
    finally:
        for stop, each in zip(stops, projectors, strict=True):
            stop.set()
            each.join()
    project.catch_up(log, straight := tables_of())
    assert project.fingerprint(tables) == project.fingerprint(straight)


def test_a_second_projector_works_when_the_first_has_ended(tables_of: Callable[[], Database]) -> None:
    database = tables_of()
    with database.tables() as second:
        with database.tables() as first:
            assert first.take_over(0.01)
            assert not second.take_over(0.01)
        assert second.take_over(10)


def test_a_projector_goes_back_to_where_a_rebuild_left_the_tables(tables_of: Callable[[], Database]) -> None:
    log, tables, done = published(list(whole_run())), tables_of(), threading.Event()
    cut = log.end_offsets()
    log.publish(whole_run(rounds=3))
    projector = threading.Thread(target=partial(project.project, log, tables, stop=done.is_set))
    projector.start()
    try:
        wait_until(lambda: stands_at(tables, log))
        project.rebuild(log, tables, until=cut)
        log.publish([past.application(name="the last", source="last = 1\n")])
        wait_until(lambda: stands_at(tables, log))
    finally:
        done.set()
        projector.join()
    project.catch_up(log, straight := tables_of())
    assert project.fingerprint(tables) == project.fingerprint(straight)


def test_a_rebuild_ends_no_earlier_than_the_tables_it_replaces(tables_of: Callable[[], Database]) -> None:
    """Facts that come and are projected while it folds are in it too."""
    tables = tables_of()

    class Growing(MemoryLog):
        grown = False

        def replay(
            self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
        ) -> Iterator[Record]:
            yield from super().replay(kinds, start=start, until=until)
            if SuiteRan in kinds and not self.grown:
                self.grown = True
                self.publish([past.application()])
                project.catch_up(self, tables)

    project.rebuild(Growing(), tables)
    assert one(tables, "SELECT count(*) FROM applications") == 1


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_readers_see_whole_tables_while_they_are_rebuilt(tables_of: Callable[[], Database]) -> None:
    """A reader that looks at any moment, within the rebuild too, sees every row of before."""
    log, tables = published(list(whole_run())), tables_of()
    project.catch_up(log, tables)
    before = one(tables, "SELECT count(*) FROM suites")
    seen: list[object] = []

    class Watched(MemoryLog):
        def replay(
            self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
        ) -> Iterator[Record]:
            for record in super().replay(kinds, start=start, until=until):
                seen.append(one(tables, "SELECT count(*) FROM suites"))
                yield record

    watched = Watched(partitions=3)
    watched.publish(list(whole_run()))
    project.rebuild(watched, tables)
    assert set(seen) == {before}
    assert one(tables, "SELECT count(*) FROM suites") == before


def test_one_rebuild_at_a_time(tables_of: Callable[[], Database]) -> None:
    with (tables := tables_of()).fresh_tables(), pytest.raises(Busy, match="rebuild"):
        project.rebuild(published([]), tables)


def test_a_rebuild_that_fails_leaves_the_tables_as_they_were(tables_of: Callable[[], Database]) -> None:
    log, tables = published(list(whole_run())), tables_of()
    project.catch_up(log, tables)
    before = project.fingerprint(tables)

    class Breaking(MemoryLog):
        def replay(
            self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
        ) -> Iterator[Record]:
            yield from super().replay(kinds, start=start, until=until)
            if SuiteRan in kinds:
                raise ServiceUnavailable("the log is away")

    breaking = Breaking(partitions=3)
    breaking.publish(list(whole_run()))
    with pytest.raises(ServiceUnavailable):
        project.rebuild(breaking, tables)
    assert project.fingerprint(tables) == before
    project.rebuild(log, tables)
    assert project.fingerprint(tables) == before


# ---- Problems have names --------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(ServiceUnavailable) as away:
        project.fingerprint(Database("postgresql://someone:secret@127.0.0.1:1/postgres"))
    assert "someone:***@127.0.0.1:1" in str(away.value)
    assert "secret" not in str(away.value)


def test_an_address_that_is_none_is_bad_input_without_its_password() -> None:
    with pytest.raises(BadInput) as bad:
        project.fingerprint(Database("host=127.0.0.1 password=secret nonsense"))
    assert "secret" not in str(bad.value)


def test_a_connection_that_dies_under_the_projector_is_unavailable(tables_of: Callable[[], Database]) -> None:
    tables = tables_of()

    class Fatal(MemoryLog):
        def replay(
            self, kinds: Collection[type[Event]], *, start: Sequence[Offset] = (), until: Sequence[Offset] | None = None
        ) -> Iterator[Record]:
            ours = "FROM pg_stat_activity WHERE application_name = 'iccm projection'"
            rows(tables, f"SELECT pg_terminate_backend(pid) {ours}")
            yield from super().replay(kinds, start=start, until=until)

    fatal = Fatal()
    fatal.publish([past.application()])
    with pytest.raises(ServiceUnavailable):
        project.catch_up(fatal, tables)


def test_tables_of_another_version_are_refused_and_a_rebuild_replaces_them(tables_of: Callable[[], Database]) -> None:
    log, tables = published(list(whole_run())), tables_of()
    project.catch_up(log, tables)
    with psycopg.connect(tables.address, autocommit=True) as connection:
        connection.execute(f"COMMENT ON SCHEMA \"{tables.schema}\" IS 'older'")
    with pytest.raises(BadInput, match="rebuild"):
        project.catch_up(log, tables)
    project.rebuild(log, tables)
    project.catch_up(log, tables)


def test_a_schema_name_that_would_be_cut_is_refused() -> None:
    with pytest.raises(BadInput, match="too long"):
        Database("", "s" * 49)
