"""Everything that can be said to have gone wrong, by whose fault it was.

    LlmsupError
    ├── CallerError          the HTTP client's or the operator's fault
    │   ├── BadRequest           400 bad_request
    │   ├── Unauthorized         401 unauthorized
    │   ├── Forbidden            403 forbidden
    │   │   └── OriginNotAllowed     403 origin_not_allowed
    │   ├── ClientBanned         403 client_banned
    │   ├── NotFound             404 model_not_found
    │   ├── MisdirectedRequest   421 misdirected_request
    │   ├── Quarantined          422 request_quarantined
    │   ├── RequestTimeout       408 request_timeout
    │   ├── BodyTooLarge         413 body_too_large
    │   └── HeadersTooLarge      431 headers_too_large
    ├── ConfigError          the configuration's        exit 6
    ├── InstanceError        llama-server's, or what it needs to run
    │   ├── UpstreamFailed       502 upstream_failed
    │   ├── UpstreamCrashed      502 upstream_crashed (inside a stream)
    │   ├── UpstreamTimeout      504 upstream_timeout
    │   ├── ModelLoading         503 model_loading
    │   ├── ModelUnavailable     503 model_unavailable
    │   └── BuildError           building or finding the binary   exit 1
    └── ServiceError         our own limits and state
        ├── QueueFull            503 queue_full
        ├── QueueTimeout         503 queue_timeout
        ├── Cancelled            503 request_cancelled
        ├── NotRunning           exit 3
        ├── PermissionDenied     exit 4
        ├── TimedOut             exit 5
        └── Conflict             409 conflict   exit 7

A class carries its HTTP status, OpenAI ``type`` and ``code``, exit code and hint; an instance may
replace the hint. Foreign exceptions are mapped to these where they enter, never further up.
The names and numbers are the contract's (CONTRACT: "Every error", "Exit codes").
"""

from typing import ClassVar


class LlmsupError(Exception):
    """What happened and why (``message``), and what to do (``hint``)."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    exit_code: int = 1  # may be set on one error, when a daemon's word is passed on
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        """One line: what, why and what to do."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class CallerError(LlmsupError):
    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class BadRequest(CallerError):
    pass


class Unauthorized(CallerError):
    status = 401
    type = "authentication_error"
    code = "unauthorized"


class Forbidden(CallerError):
    status = 403
    type = "permission_error"
    code = "forbidden"


class OriginNotAllowed(Forbidden):
    code = "origin_not_allowed"


class ClientBanned(CallerError):
    status = 403
    type = "permission_error"
    code = "client_banned"
    default_hint = "wait as long as Retry-After says, and do not send those requests again"


class NotFound(CallerError):
    status = 404
    type = "not_found_error"
    code = "model_not_found"


class MisdirectedRequest(CallerError):
    status = 421
    code = "misdirected_request"


class Quarantined(CallerError):
    status = 422
    code = "request_quarantined"
    default_hint = "change the request; llama-server cannot survive it as it is"


class RequestTimeout(CallerError):
    status = 408
    type = "timeout_error"
    code = "request_timeout"


class BodyTooLarge(CallerError):
    status = 413
    code = "body_too_large"


class HeadersTooLarge(CallerError):
    status = 431
    code = "headers_too_large"


class ConfigError(LlmsupError):
    exit_code = 6
    code = "configuration_error"


class InstanceError(LlmsupError):
    status = 503
    type = "server_error"
    code = "model_unavailable"


class UpstreamFailed(InstanceError):
    """``reason``: an errno's name or a status of the child's, where it was one (``retry.retryable``)."""

    status = 502
    code = "upstream_failed"
    reason: str | int | None = None


class UpstreamCrashed(InstanceError):
    status = 502
    code = "upstream_crashed"


class UpstreamTimeout(InstanceError):
    status = 504
    type = "timeout_error"
    code = "upstream_timeout"


class ModelLoading(InstanceError):
    code = "model_loading"


class ModelUnavailable(InstanceError):
    code = "model_unavailable"


class BuildError(InstanceError):
    """``detail`` may hold the last lines of a compiler's output, for the terminal below the one line."""

    code = "build_failed"

    def __init__(self, message: str, *, hint: str | None = None, detail: str = "") -> None:
        super().__init__(message, hint=hint)
        self.detail = detail


class ServiceError(LlmsupError):
    status = 503


class QueueFull(ServiceError):
    code = "queue_full"


class QueueTimeout(ServiceError):
    code = "queue_timeout"


class Cancelled(ServiceError):
    code = "request_cancelled"


class NotRunning(ServiceError):
    exit_code = 3
    code = "not_running"
    default_hint = "start it with: llmsup start"


class PermissionDenied(ServiceError):
    exit_code = 4
    code = "permission_denied"


class TimedOut(ServiceError):
    exit_code = 5
    code = "timed_out"


class Conflict(ServiceError):
    status = 409
    exit_code = 7
    code = "conflict"
