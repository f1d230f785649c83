"""What an error says is at fault: content, environment, or ourselves."""

import errno
import socket
from urllib.error import URLError

import pytest
import redis
from kombu.exceptions import OperationalError as BrokerAway
from sqlalchemy import exc

from reprieve.models.errors import InvalidBlock
from reprieve.models.faults import (
    NOT_CURRENT,
    Fault,
    database_trouble,
    ends_all_sessions,
    ends_session,
    fault_of,
    is_row_held,
    is_unfit,
    sqlstate_of,
    unfit_database,
)


def from_postgres(sqlstate: str | None, kind: type[exc.DBAPIError] = exc.InternalError) -> exc.DBAPIError:
    original = type("PostgresError", (Exception,), {"pgcode": sqlstate})("said")
    return kind("SELECT 1", {}, original)


@pytest.mark.parametrize("sqlstate", ["22021", "22P05", "23505", "23514", "54000"])
def test_what_can_never_be_taken_is_content(sqlstate: str) -> None:
    assert fault_of(from_postgres(sqlstate)) is Fault.CONTENT


@pytest.mark.parametrize(
    "sqlstate",
    [
        "08006",
        "25006",
        "25P03",
        "28P01",
        "40001",
        "40P01",
        "53100",
        "53300",
        "55P03",
        "57014",
        "57P01",
        "57P03",
        "58030",
    ],
)
def test_a_server_that_cannot_just_now_is_environment(sqlstate: str) -> None:
    assert fault_of(from_postgres(sqlstate)) is Fault.ENVIRONMENT


@pytest.mark.parametrize("sqlstate", ["42601", "42P01", "42501", "25P02", "P0001", "0A000"])
def test_what_no_waiting_mends_is_ours(sqlstate: str) -> None:
    assert fault_of(from_postgres(sqlstate)) is Fault.OURS


def test_the_sqlstate_outranks_the_type() -> None:
    assert fault_of(from_postgres("22001", exc.OperationalError)) is Fault.CONTENT
    assert fault_of(from_postgres("42601", exc.OperationalError)) is Fault.OURS


def test_a_server_that_said_nothing_was_not_reached() -> None:
    assert fault_of(from_postgres(None, exc.OperationalError)) is Fault.ENVIRONMENT
    assert fault_of(from_postgres(None, exc.InterfaceError)) is Fault.ENVIRONMENT


def test_a_value_that_the_client_refuses_is_content() -> None:
    assert fault_of(from_postgres(None, exc.DataError)) is Fault.CONTENT
    assert fault_of(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")) is Fault.CONTENT


@pytest.mark.parametrize(
    "error", [InvalidBlock("torn"), ValueError("A string literal cannot contain NUL (0x00) characters.")]
)
def test_what_was_given_and_no_server_need_see_is_content(error: Exception) -> None:
    assert fault_of(error) is Fault.CONTENT


def test_what_the_driver_says_of_a_lost_connection_without_a_type_of_its_own_is_environment() -> None:
    assert is_unfit(from_postgres(None, exc.DatabaseError))
    assert fault_of(from_postgres(None, exc.ProgrammingError)) is Fault.OURS


@pytest.mark.parametrize(
    ("sqlstate", "session", "all_sessions"),
    [
        *(("25006", True, True), ("57P01", True, True), ("57P03", True, True), ("08006", True, True)),
        *(("25P03", True, False), ("57P05", True, False), ("53100", False, False), ("22021", False, False)),
    ],
)
def test_a_session_is_given_up_where_it_is_of_no_use_and_the_others_where_their_server_is(
    sqlstate: str, session: bool, all_sessions: bool
) -> None:
    error = from_postgres(sqlstate)
    assert (ends_session(error), ends_all_sessions(error)) == (session, all_sessions)


def test_a_person_is_told_what_the_database_suffers_from() -> None:
    assert unfit_database(from_postgres("25006")) == "The database is read-only"
    assert unfit_database(from_postgres("55P03")) == "Another transaction holds what was asked for, and has not ended"
    assert unfit_database(from_postgres(None, exc.OperationalError)) == "The database does not answer"


def test_a_pool_without_a_free_connection_is_environment() -> None:
    assert is_unfit(exc.TimeoutError("QueuePool limit reached"))


@pytest.mark.parametrize(
    "number",
    [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS],
)
def test_a_host_that_is_short_of_something_is_environment(number: int) -> None:
    assert is_unfit(OSError(number, "short"))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EINVAL, errno.ENOEXEC])
def test_an_errno_about_what_was_asked_for_is_not(number: int) -> None:
    assert not is_unfit(OSError(number, "no"))


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("away"),
        redis.TimeoutError("slow"),
        redis.ReadOnlyError("a replica"),
        redis.exceptions.OutOfMemoryError("full"),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist"),
        BrokerAway("away"),
        ConnectionResetError("reset"),
        TimeoutError("slow"),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
)
def test_clients_and_the_interpreter_say_it_by_type(error: Exception) -> None:
    assert is_unfit(error)


@pytest.mark.parametrize(
    "error", [redis.ResponseError("WRONGTYPE"), RuntimeError("other"), KeyError("x"), ValueError("x")]
)
def test_other_errors_are_ours(error: Exception) -> None:
    assert fault_of(error) is Fault.OURS


def test_what_an_error_was_raised_from_is_read_too() -> None:
    wrapped = RuntimeError("could not start")
    wrapped.__cause__ = OSError(errno.EMFILE, "too many open files")
    assert is_unfit(wrapped)


def test_a_chain_that_bites_its_tail_ends() -> None:
    error = RuntimeError("one")
    error.__cause__ = error
    assert fault_of(error) is Fault.OURS


def test_the_sqlstate_is_found_below_what_wraps_it() -> None:
    assert sqlstate_of(from_postgres("25006")) == "25006"
    assert sqlstate_of(KeyError("x")) is None


class Unreadable(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_that_cannot_be_read_is_ours() -> None:
    assert fault_of(Unreadable()) is Fault.OURS


@pytest.mark.parametrize(
    ("reason", "unfit"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), True),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), True),
        ("a word", False),
    ],
)
def test_what_urllib_has_wrapped_is_looked_at(reason: object, unfit: bool) -> None:
    assert is_unfit(URLError(reason)) is unfit


@pytest.mark.parametrize(("sqlstate", "held"), [("55P03", True), ("55P02", False), (None, False)])
def test_a_row_that_another_transaction_holds_is_told_by_its_sqlstate(sqlstate: str | None, held: bool) -> None:
    assert is_row_held(from_postgres(sqlstate)) is held


def test_the_driver_of_another_kind_says_it_as_sqlstate() -> None:
    error = type("Psycopg3Error", (Exception,), {"sqlstate": "23505"})()
    assert sqlstate_of(error) == "23505"
    assert fault_of(error) is Fault.CONTENT


def test_what_an_error_says_itself_outranks_what_it_wraps() -> None:
    error = type("Wrapper", (Exception,), {"sqlstate": "23505", "orig": ConnectionError()})()
    assert fault_of(error) is Fault.CONTENT


def test_a_code_that_is_no_text_is_no_sqlstate() -> None:
    error = type("OddError", (Exception,), {"pgcode": 7})()
    assert sqlstate_of(error) is None
    assert fault_of(error) is Fault.OURS


def test_all_that_an_error_wraps_is_looked_at_and_a_circle_ends() -> None:
    outer, inner, cause = (RuntimeError(name) for name in ("outer", "inner", "cause"))
    outer.orig, inner.__cause__, outer.__cause__ = inner, outer, cause  # type: ignore[attr-defined]
    cause.__cause__ = ConnectionError()
    assert fault_of(outer) is Fault.ENVIRONMENT
    assert sqlstate_of(outer) is None


@pytest.mark.parametrize("sqlstate", ["42P01", "42703", "42883"])
def test_a_table_column_or_function_that_is_missing_asks_for_a_migration(sqlstate: str) -> None:
    assert database_trouble(from_postgres(sqlstate)) == NOT_CURRENT


def test_a_database_that_is_unfit_is_told_in_a_sentence_and_a_mistake_of_ours_is_not() -> None:
    assert database_trouble(from_postgres("53100")) == "The database's disk is full."
    assert database_trouble(ValueError("a certificate of ours")) is None


def test_a_certificate_that_is_not_trusted_says_how_it_would_be() -> None:
    refused = exc.OperationalError("SELECT 1", {}, Exception("certificate verify failed"))
    assert "sslrootcert=FILE" in str(database_trouble(refused))
