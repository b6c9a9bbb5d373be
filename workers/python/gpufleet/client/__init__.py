"""Submits tasks and takes their results, over AMQP or through a gateway. Both ways have the same methods."""

from __future__ import annotations

from typing import Any

from .handle import AsyncHandle, Handle
from .request import Item, Part, Progress, Result

__all__ = ["AsyncClient", "AsyncHandle", "Client", "Handle", "Item", "Part", "Progress", "Result"]


def Client(url: str, **options: Any) -> Any:  # noqa: N802
    """A client for ``http://…`` (a gateway; nothing needs to be installed) or ``amqp://…`` (the broker, by pika). It is a context manager.

    Over AMQP: ``pool`` and ``prefix`` as the fleet is configured, ``gateway`` the URL of a gateway for ``cancel`` and groups, ``pending_max`` the most tasks without a reply.
    """
    if _is_amqp(url):
        from .amqp import AmqpClient

        return AmqpClient(url, **options)
    from .http import HttpClient

    return HttpClient(url, **options)


def AsyncClient(url: str, **options: Any) -> Any:  # noqa: N802
    """The same for asyncio, as an asynchronous context manager: ``amqp://…`` by aio-pika, ``http://…`` with nothing installed."""
    if _is_amqp(url):
        from .aio_amqp import AsyncAmqpClient

        return AsyncAmqpClient(url, **options)
    from .aio_http import AsyncHttpClient

    return AsyncHttpClient(url, **options)


def _is_amqp(url: str) -> bool:
    scheme = url.split("://")[0]
    if scheme not in ("amqp", "amqps", "http", "https"):
        raise ValueError(f"the URL must begin with amqp://, amqps://, http:// or https://, not {scheme!r}")
    return scheme.startswith("amqp")
