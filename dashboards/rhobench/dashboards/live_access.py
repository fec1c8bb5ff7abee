"""Who may read the live view: this machine, or who has the token that the command prints."""

from __future__ import annotations

import hmac
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""

COOKIE = "rhobench_token"
"""Name of the cookie that carries the token after the first request."""


def guard(server: Any, token: str | None) -> None:
    """Refuse requests without the token, or with a foreign host name: a web page could resolve it to this machine."""
    from flask import abort, request

    @server.before_request
    def check() -> None:
        if token is None:
            if request.host.rsplit(":", 1)[0].strip("[]") not in LOOPBACK:
                abort(403)
            return
        given = request.args.get("token") or request.cookies.get(COOKIE) or ""
        if not hmac.compare_digest(given.encode(), token.encode()):
            abort(403)

    @server.after_request
    def protect(response: Any) -> Any:
        if token is not None and request.args.get("token") and response.status_code < 400:  # not to a wrong token
            response.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Frame-Options"] = "DENY"
        return response
