"""What the errors of MongoDB and of its driver mean
(https://github.com/mongodb/mongo/blob/v6.0/src/mongo/base/error_codes.yml)."""

import os
import re
from collections.abc import Mapping
from typing import Any

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from herenow.errors import StoreDenied, StoreError, StoreNotReady, StoreUnavailable, StoreUnforeseen

DRIVER_ERRORS = (PyMongoError, BSONError, OSError)
"""Whatever the driver raises: most are of its own, and some the system's."""

DUPLICATE_KEY = 11000

_ROW_CODES = frozenset(
    {
        2,  # BadValue
        9,  # FailedToParse
        14,  # TypeMismatch
        28,  # PathNotViable
        52,  # DollarPrefixedFieldName
        66,  # ImmutableField
        121,  # DocumentValidationFailure
        171,  # CannotIndexParallelArrays
        10334,  # BSONObjectTooLarge
        DUPLICATE_KEY,  # of a unique index of the application
        17280,  # KeyTooLong
        17419,  # the document would be too large after the update
    }
)
_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13
_NOT_CONFIRMED = 64  # WriteConcernFailed
_OUT_OF_DISK_SPACE = 14031
_BAD_VALUE = 2


def is_of_row(code: int | None) -> bool:
    """Say whether a write error is about one document, not about the database."""
    return code in _ROW_CODES


def is_of_missing_index(error: OperationFailure) -> bool:
    """Say whether the index that was to be used is not there."""
    return error.code == _BAD_VALUE and "hint provided does not correspond" in str(error)


def describe_refusal(failure: Mapping[str, Any]) -> str:
    """Say in a clause why the database would not take a document; a validator's own words are cut short."""
    reason = str(failure.get("errmsg", "no reason was given"))
    details = failure.get("errInfo", {}).get("details")
    return reason if details is None else f"{reason}: {str(details)[:300]}"


def translate(error: Exception, database: str) -> StoreError:
    """Turn an error of the driver into one of ours. What is not known counts as what may pass."""
    match error:
        case NotPrimaryError():
            return StoreUnavailable(database, "its replica set has no primary at the moment")
        case ConnectionFailure():
            return StoreUnavailable(database, _shorten(str(error)))
        case OSError():  # a certificate, a socket: the driver does not put all of them into errors of its own
            return StoreUnavailable(database, _shorten(str(error)))
        case BulkWriteError():
            return _translate_failure(_first_of(error), database)
        case ConfigurationError():  # what was wrong with the address itself was found before: this is of its look-up
            return StoreUnavailable(database, _shorten(str(error)))
        case ExecutionTimeout():
            return StoreUnavailable(database, "it did not answer in time")
        case OperationFailure():
            return _translate_failure(error, database)
        case _:
            return StoreUnforeseen(database, _shorten(str(error)))


def _first_of(error: BulkWriteError) -> OperationFailure:
    """What went wrong in a batch, other than with single documents."""
    details: Mapping[str, Any] = error.details or {}
    failures = [*details.get("writeConcernErrors", ()), *details.get("writeErrors", ())]
    of_all = [failure for failure in failures if not is_of_row(failure.get("code"))]
    for failure in of_all or failures:
        return OperationFailure(str(failure.get("errmsg", "")), failure.get("code"))
    return error


def _translate_failure(error: OperationFailure, database: str) -> StoreError:
    said = _shorten(str(error))
    if error.code == _AUTHENTICATION_FAILED:
        return StoreDenied(database, "the user or the password is wrong, or the user is of another authSource")
    if error.code == _UNAUTHORIZED:
        return StoreDenied(database, said.partition(" {")[0])
    if error.code == _NOT_CONFIRMED:
        return StoreUnavailable(database, "a majority of its members did not confirm the write in time")
    if error.code == _OUT_OF_DISK_SPACE:
        return StoreUnavailable(database, "its disk is full")
    if is_of_missing_index(error):
        return StoreNotReady(database, "its index is missing")
    # What the driver would try again is the server's: no primary, a shutdown, a host that is away.
    passes = error.has_error_label("RetryableWriteError") or error.has_error_label("TransientTransactionError")
    return StoreUnavailable(database, said) if passes else StoreUnforeseen(database, said)


def _shorten(said: str) -> str:
    """Cut off what the driver adds for those who debug it, and put the number of an error into words."""
    if "No primary available" in said or "No replica set members" in said:
        return "its replica set has no primary at the moment"
    for addition in (" (configured timeouts", ", Timeout:", ", full error", " Topology Description"):
        said = said.partition(addition)[0]
    said = re.sub(r"\[Errno (\d+)\] .*", lambda found: os.strerror(int(found[1])).lower(), said)
    return said.splitlines()[0].rstrip(". ") if said else "it gave no reason"
