"""The live page behind `lxmert-fast demo --serve`: this machine only unless asked otherwise, no other host.

    GET  /                      the page
    GET  /images?search=WORDS   {"images": [id, ...], "count": how many match}
    POST /explain               {"image": id, "question": text}, JSON; answers with a page
    POST /upload?question=...   the picture's bytes, application/octet-stream; answers with a page

Both POST types make a browser ask first when another site sends them, and no site is allowed to; a request
under another host's name is refused, so a name that was bent to this address reads nothing either.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lxmert_fast.errors import InputError

from .gallery import Gallery, Refused
from .page import fill

MOST_UPLOADED = 16 * 2**20
MOST_ASKED = 16 * 2**10
LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

logger = logging.getLogger(__name__)


def make_app(gallery: Gallery, hosts: list[str]) -> Starlette:
    """The application; `hosts` are the names that requests may come under, ["*"] for any."""

    async def home(_: Request) -> Response:
        content = {"count": len(gallery.store), "noUploads": gallery.no_uploads, "most": MOST_UPLOADED}
        return HTMLResponse(fill("gallery.html", content))

    async def images(request: Request) -> Response:
        found, count = await run_in_threadpool(gallery.search, request.query_params.get("search", ""))
        return JSONResponse({"images": found, "count": count})

    async def explain(request: Request) -> Response:
        _require_type(request, "application/json")
        content = await _body(request, MOST_ASKED, "question")
        try:
            asked = json.loads(content)
            image, question = asked["image"], asked["question"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused("found no question, wanted JSON with image and question") from None
        if not isinstance(image, str) or not isinstance(question, str):
            raise Refused("image and question must be texts")
        return HTMLResponse(await run_in_threadpool(gallery.explain, image, question))

    async def upload(request: Request) -> Response:
        _require_type(request, "application/octet-stream")
        content = await _body(request, MOST_UPLOADED, "picture")
        question = request.query_params.get("question", "")
        return HTMLResponse(await run_in_threadpool(gallery.explain_upload, content, question))

    return Starlette(
        routes=[
            Route("/", _answering(home)),
            Route("/images", _answering(images)),
            Route("/explain", _answering(explain), methods=["POST"]),
            Route("/upload", _answering(upload), methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
    )


def serve(gallery: Gallery, host: str, port: int, report: Callable[[str], Any]) -> None:
    """Listen until Ctrl-C; `report` is told the address once it is listened on.

    Raises:
        InputError: an address that cannot be listened on.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened on ({error.strerror or error})") from None
    loopback = host in ("127.0.0.1", "localhost", "::1")
    shown = f"[{host}]" if ":" in host else host
    with listening:
        report(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
        if not loopback:
            report("not only this machine can reach it: there is no password")
        app = make_app(gallery, LOOPBACK if loopback else ["*"])
        config = uvicorn.Config(app, log_level="warning", server_header=False, access_log=False)
        # Ctrl-C has ended it in good order by the time it is passed on
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


Endpoint = Callable[[Request], Awaitable[Response]]


def _answering(endpoint: Endpoint) -> Endpoint:
    """With the headers of every answer; a visitor's mistake is told, one of the server's is in its log."""

    async def answer(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except _TooLarge as error:
            response = JSONResponse({"error": str(error)}, 413)
        except Refused as error:
            response = JSONResponse({"error": str(error)}, 400)
        except ClientDisconnect:
            response = Response(status_code=400)
        except Exception as error:
            # an InputError names a file of the server in one line; anything else is worth its traceback
            logger.error("%s", error, exc_info=not isinstance(error, InputError))
            response = JSONResponse({"error": "this cannot be answered; the server's log says why"}, 500)
        response.headers.update(HEADERS)
        return response

    return answer


class _TooLarge(Refused):
    """More bytes than are taken."""


def _require_type(request: Request, wanted: str) -> None:
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != wanted:
        raise Refused(f"wanted content of type {wanted}")


async def _body(request: Request, most: int, what: str) -> bytes:
    """The content, never more than `most` bytes of it in memory."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise _TooLarge(f"the {what} is too large, wanted at most {most:,} bytes")
    return bytes(content)
