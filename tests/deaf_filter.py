"""A filter in Swift's pipeline, which imports it by name: with it, the server overhears If-None-Match."""

from collections.abc import Callable
from typing import Any


def deaf_to_conditions(common: dict[str, str], **own: str) -> Callable[[Any], Any]:
    """Stands behind the filter that checks signatures, which cover the header."""

    def hear_nothing(app: Any) -> Any:
        def answer(environ: dict[str, Any], start_response: Any) -> Any:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            return app(environ, start_response)

        return answer

    return hear_nothing
