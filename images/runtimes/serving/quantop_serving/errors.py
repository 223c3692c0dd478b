"""Errors in the shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

INVALID_REQUEST = "invalid_request_error"
OVERLOADED = "overloaded_error"
SERVER_ERROR = "server_error"


class ApiError(HTTPException):
    """A request that ends with an error instead of an answer.

    It is one of Starlette's own, so that FastAPI lets it pass while it reads a body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.body = error_body(message, kind=kind, param=param, code=code)

    def response(self) -> JSONResponse:
        """Return the error as HTTP."""
        return JSONResponse(self.body, self.status_code, self.headers)


def error_body(
    message: str, *, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def validation_error(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """Turn what pydantic found wrong with a body into one error, which names the first field."""
    field = _field(problems[0])
    # Each variant of a union complains; one that takes the value's type knows what is wrong.
    same = [problem for problem in problems if _field(problem) == field]
    problem = next((each for each in same if not each["type"].endswith("_type")), same[0])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.")
    if field is None:
        return ApiError(400, f"The body does not fit this route: {message}.")
    if problem["type"] == "missing":
        return ApiError(400, f"'{field}' is required.", param=field)
    if problem["type"] == "extra_forbidden":
        unknown = f"'{field}' is not a field that this server knows."
        return ApiError(400, unknown, param=field, code="unknown_field")
    found = repr(problem.get("input"))
    found = found if len(found) <= 80 else found[:77] + "..."
    return ApiError(400, f"'{field}': {message}; found {found}.", param=field)


def _field(problem: Mapping[str, Any]) -> str | None:
    """Return the body's field; what follows it in the location may be a union's variant."""
    where = problem["loc"][1:]
    return where[0] if where and isinstance(where[0], str) else None
