"""The whole error tree: whose fault it is, the HTTP status and code, whether the same request may be sent again."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

Fault = Literal["caller", "policy", "upstream", "ours"]


class Refused(NamedTuple):
    """How a host refused: its HTTP status, the seconds that it asks to be left alone, how many requests at a time it allows; `broke`:
    whether it names the gateway's balance, whatever its status is."""

    status: int
    wait: int | None = None
    limit: int | None = None
    broke: bool = False


class FaregateError(Exception):
    """An error that a client may see. The text never holds a prompt, an answer or a key."""

    fault: ClassVar[Fault] = "ours"
    status: int = 500
    code: ClassVar[str] = "internal_error"
    retry: bool = False
    billed: bool = False
    refused: Refused | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details
        self.retry_after = retry_after


class InternalError(FaregateError):
    """A mistake of ours; the text says nothing of its inside."""


class InvalidRequest(FaregateError):
    """The request itself is wrong; `param` names the field."""

    fault = "caller"
    status = 400
    code = "invalid_request"


class ContextExceeded(InvalidRequest):
    """The prompt and the answer certainly do not fit; the text carries the arithmetic."""

    code = "context_exceeded"


class NotServed(InvalidRequest):
    """One host does not serve the request as it stands; another one may."""


class InvalidKey(FaregateError):
    fault = "caller"
    status = 401
    code = "invalid_key"


class BudgetExceeded(FaregateError):
    """A budget cannot hold this request; `details` has the arithmetic, and one that begins anew says when."""

    fault = "caller"
    status = 402
    code = "budget_exceeded"


class NotAllowed(FaregateError):
    fault = "caller"
    status = 403
    code = "not_allowed"


class ModelNotFound(FaregateError):
    fault = "caller"
    status = 404
    code = "model_not_found"


class InFlight(FaregateError):
    """A request with this Idempotency-Key and body is on its way."""

    fault = "caller"
    status = 409
    code = "in_flight"
    retry = True


class AlreadyDone(FaregateError):
    """A request with this Idempotency-Key and body was paid for; `details` has its id."""

    fault = "caller"
    status = 409
    code = "already_done"


class IdempotencyMismatch(FaregateError):
    """This Idempotency-Key stands for another body."""

    fault = "caller"
    status = 422
    code = "idempotency_mismatch"


class BodyTooLarge(FaregateError):
    fault = "caller"
    status = 413
    code = "body_too_large"


class EncodingUnsupported(FaregateError):
    fault = "caller"
    status = 415
    code = "encoding_unsupported"


class RateLimited(FaregateError):
    fault = "caller"
    status = 429
    code = "rate_limited"
    retry = True


class UpstreamError(FaregateError):
    """The host failed. `dispatched`: it had the request, so that a retry might pay twice; `billed`: it may have charged for it."""

    fault = "upstream"
    status = 502
    code = "upstream_error"

    def __init__(self, message: str, *, dispatched: bool, billed: bool | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.dispatched = dispatched
        self.billed = dispatched if billed is None else billed
        self.retry = not dispatched


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
    slow_client = False
    """Whether the time went by while the client read: no fault of the host's."""


class NoDeployment(FaregateError):
    """No configured host can serve this request now; the text says why for each."""

    fault = "policy"
    status = 503
    code = "no_deployment"
    retry = True


class LedgerUnavailable(FaregateError):
    status = 503
    code = "ledger_unavailable"
    retry = True


class Overloaded(FaregateError):
    status = 503
    code = "overloaded"
    retry = True


class PriceUnknown(FaregateError):
    """No card covers (host, model, currency, instant): refused before any money is held, never priced at 0."""

    fault = "policy"
    status = 503
    code = "price_unknown"


class PolicyError(Exception):
    """A policies folder that does not load. `problems` has one line for each, with file, line and remedy."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
