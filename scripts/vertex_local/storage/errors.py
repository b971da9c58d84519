"""The errors that Cloud Storage reports, in Google's own sentences where they are known."""

from __future__ import annotations

from http import HTTPStatus
from xml.sax.saxutils import escape

from vertex_local import features


class StorageError(Exception):
    """An error that Cloud Storage reports to its caller.

    Attributes:
        http: the HTTP status.
        reason: Google's name for it in the JSON API.
        code: Google's name for it in the XML API.
        plain: whether the answer is plain text where other errors are JSON.
    """

    http: int = HTTPStatus.INTERNAL_SERVER_ERROR
    reason = "backendError"
    code = "InternalError"
    plain = False

    def json(self) -> dict[str, object]:
        """Return the error in the shape of the JSON API."""
        detail = {"message": str(self), "domain": "global", "reason": self.reason}
        return {"error": {"code": int(self.http), "message": str(self), "errors": [detail]}}

    def xml(self) -> str:
        """Return the error in the shape of the XML API."""
        message = escape(str(self))
        return (
            "<?xml version='1.0' encoding='UTF-8'?>"
            f"<Error><Code>{self.code}</Code><Message>{message}</Message>"
            f"<Details>{message}</Details></Error>"
        )


class BadRequest(StorageError):
    """The request itself is wrong."""

    http, reason, code = HTTPStatus.BAD_REQUEST, "invalid", "InvalidArgument"


class BadChecksum(BadRequest):
    """The bytes that arrived are not the bytes that were sent."""

    code = "BadDigest"


class TooSmallChunk(BadRequest):
    """A piece of a resumable upload is too small, and not the last."""

    plain = True

    def __init__(self, size: int, least: int) -> None:
        super().__init__(
            "Invalid request.  The number of bytes uploaded is required to be equal or greater "
            f"than {least}, except for the final request (it's recommended to be the exact "
            f"multiple of {least}).  The received request contained {size} bytes, which does not "
            "meet this requirement."
        )


class Forbidden(StorageError):
    """The caller has no permission, because a fault says so."""

    http, reason, code = HTTPStatus.FORBIDDEN, "forbidden", "AccessDenied"


class NotFound(StorageError):
    """There is no such bucket, object or upload."""

    http, reason, code = HTTPStatus.NOT_FOUND, "notFound", "NoSuchKey"


class Conflict(StorageError):
    """The state of a bucket does not allow the request."""

    http, reason, code = HTTPStatus.CONFLICT, "conflict", "Conflict"


class PreconditionFailed(StorageError):
    """A condition that came with the request is not met."""

    http, reason, code = HTTPStatus.PRECONDITION_FAILED, "conditionNotMet", "PreconditionFailed"

    def __init__(self) -> None:
        super().__init__("At least one of the pre-conditions you specified did not hold.")


class NotModified(StorageError):
    """The caller has the current state already."""

    http, reason, code = HTTPStatus.NOT_MODIFIED, "notModified", "NotModified"


class TooLarge(StorageError):
    """A part of the request that is not an object's content is too long."""

    http, reason, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "uploadTooLarge", "EntityTooLarge"


class BadRange(StorageError):
    """The requested bytes do not exist."""

    http = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    reason, code = "requestedRangeNotSatisfiable", "InvalidRange"

    def __init__(self) -> None:
        super().__init__("Request range not satisfiable")


class Cancelled(StorageError):
    """The client cancelled the upload. 499 is Google's own status code for it."""

    http, reason, code = 499, "clientClosedRequest", "Cancelled"


class DiskFull(StorageError):
    """This machine's disk is full. Clients do not retry after this status."""

    http = HTTPStatus.INSUFFICIENT_STORAGE
    reason, code = "insufficientStorage", "InsufficientStorage"


class Unavailable(StorageError):
    """The request cannot be answered now; clients retry after this status."""

    http, reason, code = HTTPStatus.SERVICE_UNAVAILABLE, "backendError", "ServiceUnavailable"


class NotEmulated(StorageError):
    """Cloud Storage can do this; local mode cannot. Not 501: gcsfs repeats that for half a minute.

    Args:
        feature: in Cloud Storage's terms.
        instead: what to do without it.
    """

    http, reason, code = HTTPStatus.METHOD_NOT_ALLOWED, "notImplemented", "NotImplemented"

    def __init__(self, feature: str, instead: str = "") -> None:
        super().__init__(features.sentence("Cloud Storage", feature, instead))


def no_bucket() -> NotFound:
    """Return the error for a bucket that does not exist."""
    error = NotFound("The specified bucket does not exist.")
    error.code = "NoSuchBucket"
    return error


def no_object(bucket: str, name: str) -> NotFound:
    """Return the error for an object that does not exist."""
    return NotFound(f"No such object: {bucket}/{name}")
