"""The short way to the routes that nearly all requests ask.

In: any request, behind all other middleware. Out: the answer of its endpoint, without what the framework does around
one: looking through all routes, dependencies, two exit stacks. The framework has these routes too, and its document
describes them; what an endpoint raises is answered by the same handlers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request, Exception], Awaitable[Response]]


class HotRoutes:
    """Calls some endpoints itself and passes all other requests on.

    Args:
        app: what comes after.
        routes: of POST requests; their endpoints take the request and nothing else.
        handlers: of errors, by class, as the application has them.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute], handlers: Mapping[Any, Any]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"], scope["endpoint"], scope["path_params"] = route, route.endpoint, {}
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except Exception as error:
            handler = self._handler_of(error)
            if handler is None:
                raise
            response = await handler(request, error)
        await response(scope, receive, send)

    def _handler_of(self, error: Exception) -> Handler | None:
        return next((self._handlers[each] for each in type(error).__mro__[:-3] if each in self._handlers), None)
