"""The URLs of the page: what each one shows, and what each form changes."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import jinja2
from google.cloud.aiplatform_v1.types import CustomJob, HyperparameterTuningJob
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vertex_local import costs
from vertex_local.config import LocalModeError
from vertex_local.console import curve, files, gate, logs, searches, views
from vertex_local.console.gate import Session
from vertex_local.faults.kinds import KINDS
from vertex_local.jobs.log import SERVICE_LOG
from vertex_local.storage.digest import pieces
from vertex_local.storage.errors import StorageError
from vertex_local.storage.objects import Objects
from vertex_local.training.budget import Budget
from vertex_local.training.handlers import Service
from vertex_local.training.names import ResourceName

HERE = Path(__file__).parent
START = "/console/"
MAX_FORM_BYTES = 64 * 1024
TAIL_LINES = 200
NEWEST_SEARCHES = 10
# A browser may run nothing that an object contains.
RAW_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
View = Callable[["Console", Request], Awaitable[Response]]


@dataclass(frozen=True)
class Console:
    """What the handlers of the page need.

    Attributes:
        service: jobs and their runner.
        objects: the buckets.
        session: who may see the page, and at which path.
    """

    service: Service
    objects: Objects
    session: Session

    def at(self, path: str = "", **query: object) -> str:
        """Return the path and query of a part of the page, such as `jobs/123`.

        Parameters of the query that are "" or None are left out.
        """
        given = {key: value for key, value in query.items() if value not in ("", None)}
        return f"{self.session.path}/{quote(path)}" + (f"?{urlencode(given)}" if given else "")

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a rendered template. The values are escaped, so they cannot add markup."""
        content = TEMPLATES.get_template(template).render(at=self.at, **values)
        return HTMLResponse(content, status)


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": views.moment, "recent": views.recent, "money": costs.money}
    environment.filters |= {"duration": views.duration, "size": views.size}
    return environment


TEMPLATES = _templates()


def beside(console: Console, others: ASGIApp) -> ASGIApp:
    """Return an ASGI application: the page below `/console/`, `others` for every other path."""
    page = application(console)

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"].startswith(START)
        await (page if is_page else others)(scope, receive, send)

    return choose


def application(console: Console) -> ASGIApp:
    """Return the page as an ASGI application, behind its gate."""
    routes = [
        Route("/", partial(_view, console, jobs)),
        Route("/enter/{code}/{path:path}", partial(_view, console, enter)),
        Route("/static/{name}", partial(_view, console, static)),
        Route("/jobs/{id}", partial(_view, console, job)),
        Route("/jobs/{id}/log/{name}", partial(_view, console, log)),
        Route("/jobs/{id}/cancel", partial(_view, console, cancel), methods=["POST"]),
        Route("/jobs/{id}/preempt", partial(_view, console, preempt), methods=["POST"]),
        Route("/searches/{id}", partial(_view, console, search)),
        Route("/searches/{id}/cancel", partial(_view, console, cancel_search), methods=["POST"]),
        Route("/buckets", partial(_view, console, buckets)),
        Route("/folder", partial(_view, console, folder)),
        Route("/object", partial(_view, console, show_object)),
        Route("/raw", partial(_view, console, raw)),
        Route("/faults", partial(_view, console, faults)),
        Route("/faults/add", partial(_view, console, add_fault), methods=["POST"]),
        Route("/faults/clear", partial(_view, console, clear_faults), methods=["POST"]),
        Route("/budget", partial(_view, console, set_budget), methods=["POST"]),
    ]
    app = Starlette(
        routes=[Mount(console.session.prefix, routes=routes)],
        exception_handlers={
            HTTPException: partial(_problem, console),
            StorageError: partial(_problem, console),
            LocalModeError: partial(_problem, console),
            Exception: partial(_unexpected, console),  # Starlette raises it again: for server.log
        },
    )
    return _Guard(app, console)


class _Guard:
    """ASGI middleware: admits only the owner's browser, and adds the security headers."""

    def __init__(self, app: ASGIApp, console: Console) -> None:
        self._app, self._console = app, console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in gate.HEADERS.items()
                        if name.lower().encode() not in names
                    ),
                ]
            await send(message)

        request = Request(scope)
        answer = self._refused(request)
        await (answer or self._app)(scope, receive, guarded)

    def _refused(self, request: Request) -> Response | None:
        console, headers = self._console, request.headers
        if reason := gate.refusal(request.method, headers, console.session.origins):
            return console.page("closed.html", 403, reason=reason)
        prefix = console.session.prefix
        if not request.url.path.startswith(f"{prefix}/"):
            reason = "This address belongs to a server that has ended."
            return console.page("closed.html", 404, reason=reason)
        entrance = request.url.path.startswith((f"{prefix}/enter/", f"{prefix}/static/"))
        if entrance or console.session.has_entered(headers):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            # Following a link from another site, a browser does not send a SameSite=Strict
            # cookie. It does when this page opens the same address again.
            return console.page("enter.html", target=_own_address(console, request))
        return console.page("closed.html", 403, reason="This browser has not opened a link yet.")


def _own_address(console: Console, request: Request) -> str:
    query = request.url.query
    path = request.url.path.removeprefix(f"{console.session.prefix}/")
    return console.at(path) + (f"?{query}" if query else "")


async def _view(console: Console, view: View, request: Request) -> Response:
    return await view(console, request)


async def _problem(console: Console, _request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", None) or int(getattr(error, "http", 400))
    text = str(getattr(error, "detail", "") or error)
    return console.page("problem.html", status, text=text)


async def _unexpected(console: Console, _request: Request, _error: Exception) -> Response:
    text = "Local mode could not show this page. The file server.log in its folder says why."
    return console.page("problem.html", 500, text=text)


# ------------------------------------------------------------------------------ entrance


async def enter(console: Console, request: Request) -> Response:
    """Give the browser the cookie if the link is valid; then open the page in either case.

    It answers with a page that opens the next one, not with a redirect: a browser that comes from
    another site would not send the cookie with a redirected request.
    """
    target = console.at(request.path_params["path"])
    answer = console.page("enter.html", target=target)
    if console.session.redeem(request.path_params["code"]):
        answer.headers["Set-Cookie"] = console.session.set_cookie
    return answer


def new_link(console: Console) -> Route:
    """Return the route, of the training API, at which a caller with the token gets a link."""

    async def link(request: Request) -> Response:
        url = console.session.link(request.query_params.get("page", ""))
        return PlainTextResponse(url, background=BackgroundTask(_warm_up, console))

    return Route("/console-link", link, methods=["POST"])


def _warm_up(console: Console) -> None:
    """Load templates and jobs into their caches, so that the link opens at once."""
    for name in TEMPLATES.list_templates():
        TEMPLATES.get_template(name)
    views.listing(console.service.records, "", "", "", 0)


async def static(_console: Console, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ("style.css", "live.js", "icon.svg"):
        raise HTTPException(404)
    return FileResponse(HERE / "static" / name)


# ------------------------------------------------------------------------------ jobs


async def jobs(console: Console, request: Request) -> Response:
    query = request.query_params
    filters = {name: query.get(name, "") for name in ("state", "text", "owner")}
    number = _number(query.get("page", "")) or 0
    found = await run_in_threadpool(views.listing, console.service.records, **filters, page=number)
    return console.page(
        "jobs.html",
        found=found,
        filters=filters,
        number=number,
        searches=await run_in_threadpool(_searches, console, filters),
        per_page=views.PAGE,
        budget=await run_in_threadpool(_budget, console),
    )


def _searches(console: Console, filters: Mapping[str, str]) -> list[searches.Search]:
    """Return the newest searches that match the filters of the list."""
    found = map(searches.search_of, reversed(console.service.records.searches()))
    wanted = (
        each
        for each in found
        if filters["state"] in ("", each.state)
        and filters["owner"] in ("", each.owner)
        and (filters["text"].lower() in each.name.lower() or filters["text"] == each.id)
    )
    return list(itertools.islice(wanted, NEWEST_SEARCHES))


def _job(console: Console, request: Request) -> CustomJob:
    found = console.service.records.job_with_id(request.path_params["id"])
    if found is None:
        raise HTTPException(404, f"There is no job {request.path_params['id']}.")
    return found


async def job(console: Console, request: Request) -> Response:
    found = _job(console, request)
    return await run_in_threadpool(_job_page, console, found)


def _job_page(console: Console, found: CustomJob) -> Response:
    shown = views.job_of(console.service.records, console.service.runner.root, found)
    runs = [(uri, files.below(console.objects, uri)) for uri in shown.folders]
    tails = [(each, logs.part(each.path)) for each in shown.logs]
    return console.page(
        "job.html",
        job=shown,
        runs=runs,
        split=files.split,
        tails=tails,
        tail_lines=TAIL_LINES,
        drawn=_curve(console, shown.folders),
        drawing=curve,
    )


def _curve(console: Console, folders: list[str]) -> curve.Curve | None:
    for uri in folders:
        for below in ("eval_history.csv", "model/eval_history.csv"):
            bucket, prefix = files.split(f"{uri}/")
            data = _head(console, bucket, prefix + below, files.CURVE_BYTES)
            if data and (drawn := curve.draw(data.decode(errors="replace"))):
                return drawn
    return None


def _head(console: Console, bucket: str, name: str, limit: int) -> bytes:
    try:
        return files.head(console.objects, bucket, name, limit)
    except StorageError:
        return b""


async def search(console: Console, request: Request) -> Response:
    """Show a hyperparameter tuning job with its trials."""
    found = await run_in_threadpool(_search, console, request)
    shown = searches.search_of(found)
    service_log = logs.part(console.service.runner.root.jobs / shown.id / SERVICE_LOG)
    return console.page(
        "search.html",
        search=shown,
        cost=views.cost(found),
        said=service_log.lines[-TAIL_LINES:],
        drawing=curve,
    )


def _search(console: Console, request: Request) -> HyperparameterTuningJob:
    number = request.path_params["id"]
    for found in console.service.records.searches():
        if ResourceName.of(found).id == number:
            return found
    raise HTTPException(404, f"There is no hyperparameter tuning job {number}.")


async def cancel_search(console: Console, request: Request) -> Response:
    found = await run_in_threadpool(_search, console, request)
    await run_in_threadpool(console.service.tuner.cancel, found.name)
    return _redirect(console, f"searches/{request.path_params['id']}")


def _number(text: str) -> int | None:
    """Return a text as a number of at most 15 digits; None if it is not one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


async def log(console: Console, request: Request) -> Response:
    found = _job(console, request)
    name = request.path_params["name"]
    kept = views.logs_of(console.service.runner.root, found)
    chosen = [each for each in kept if each.name == name]
    if not chosen:
        raise HTTPException(404, f"This job has no log {name}.")
    text, start = request.query_params.get("text", ""), request.query_params.get("from", "")
    begin = _number(start)
    path = chosen[0].path
    read = partial(logs.search, path, text) if text else partial(logs.part, path, begin)
    part = await run_in_threadpool(read)
    row = views.row_of(found)
    return console.page(
        "log.html", row=row, log=chosen[0], part=part, text=text, at_end=begin is None and not text
    )


async def cancel(console: Console, request: Request) -> Response:
    found = _job(console, request)
    await run_in_threadpool(console.service.runner.cancel, found.name)
    return _redirect(console, f"jobs/{request.path_params['id']}")


async def preempt(console: Console, request: Request) -> Response:
    """Take the Spot machine of a job away now: add a fault for this job."""
    number = ResourceName.of(_job(console, request)).id
    console.service.runner.faults.add("preemption", {"job": number})
    return _redirect(console, f"jobs/{number}")


def _redirect(console: Console, path: str) -> Response:
    # If the address has no host, a proxy may put its own path before it a second time.
    host = console.session.origins[0] if console.session.path != console.session.prefix else ""
    return Response(status_code=303, headers={"Location": f"{host}{console.at(path)}"})


# ------------------------------------------------------------------------------ buckets


async def buckets(console: Console, _request: Request) -> Response:
    names = await run_in_threadpool(console.objects.buckets)
    return console.page("buckets.html", names=names)


async def folder(console: Console, request: Request) -> Response:
    query = request.query_params
    bucket, prefix = query.get("bucket", ""), query.get("prefix", "")
    found = await run_in_threadpool(
        files.folder, console.objects, bucket, prefix, query.get("token", "")
    )
    return console.page("folder.html", bucket=bucket, prefix=prefix, found=found)


async def show_object(console: Console, request: Request) -> Response:
    bucket, name = request.query_params.get("bucket", ""), request.query_params.get("name", "")
    document = await run_in_threadpool(console.objects.get, bucket, name)
    data = await run_in_threadpool(files.head, console.objects, bucket, name, files.PREVIEW_BYTES)
    shown = files.preview(data, name, int(document["size"]) <= len(data))
    return console.page(
        "object.html",
        bucket=bucket,
        name=name,
        document=document,
        updated=files.moment(document),
        shown=shown,
    )


async def raw(console: Console, request: Request) -> Response:
    """Return an object's bytes: images for the page, everything else as a download."""
    bucket, name = request.query_params.get("bucket", ""), request.query_params.get("name", "")
    file, document = await run_in_threadpool(console.objects.open, bucket, name)
    kind = files.IMAGES.get(name.rpartition(".")[2].lower())
    headers = {**RAW_HEADERS, "Content-Length": str(document["size"])}
    if kind is None or request.query_params.get("download"):
        filename = quote(name.rpartition("/")[2] or "object")
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{filename}"
        kind = "application/octet-stream"
    return StreamingResponse(pieces(file), headers=headers, media_type=kind)


# ------------------------------------------------------------------------------ faults and budget


async def faults(console: Console, request: Request) -> Response:
    chosen = KINDS.get(request.query_params.get("kind", ""))
    return console.page(
        "faults.html",
        kinds=KINDS,
        chosen=chosen,
        faults=console.service.runner.faults.all(),
        budget=_budget(console),
    )


async def _form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form that have a value; refuse more than `MAX_FORM_BYTES`."""
    body = b""
    async for data in request.stream():
        body += data
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "This form is too long.")
    return dict(parse_qsl(body.decode("utf-8", "replace")))


async def add_fault(console: Console, request: Request) -> Response:
    options = dict(await _form(request))
    console.service.runner.faults.add(options.pop("kind", ""), options)
    return _redirect(console, "faults")


async def clear_faults(console: Console, request: Request) -> Response:
    number = (await _form(request)).get("number", "")
    console.service.runner.faults.clear(_number(number))
    return _redirect(console, "faults")


async def set_budget(console: Console, request: Request) -> Response:
    root = console.service.runner.root
    text = (await _form(request)).get("usd", "").strip()
    if not text:
        root.budget.unlink(missing_ok=True)
    else:
        budget = Budget.read(root) or Budget(0)
        replace(budget, usd=Budget.amount(text)).write(root)
    return _redirect(console, "faults")


def _budget(console: Console) -> tuple[float, float] | None:
    """Return the limit and what is spent of it, in US dollars; None if there is no budget."""
    budget = Budget.read(console.service.runner.root)
    return (budget.usd, budget.spent(console.service.records.jobs())) if budget else None
