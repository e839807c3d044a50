"""From functions to tools: what lies between `tool.py` and the contract in `wit/`.

Nothing here knows your tools; change it if your tools need more of the contract. Outside a component, as in your
tests, everything works but `get`, which is denied.
"""

import inspect
import json
import typing
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

try:  # There in a component only; `componentize-py` makes it of the WIT.
    from componentize_py_types import Err
    from wit_world.imports import fumehood_tool_types as wit
    from wit_world.imports import outgoing_handler, streams
    from wit_world.imports import wasi_http_types as http_types
except ImportError:
    wit = None


class Failure(Exception):
    """Why a tool has no result. The message is for the model: what happened, why, and what to do instead.

    Raise one of the kinds below. Any other exception of a tool becomes `Failed`.
    """


class InvalidArguments(Failure):
    """The arguments break a rule that the schema could not express."""


class Denied(Failure):
    """A grant, a rule or a service said no."""


class NotFound(Failure):
    """What the arguments name does not exist."""


class Unavailable(Failure):
    """Something is not there now and may be there later: after `after_ms` milliseconds, if that is known."""

    def __init__(self, message, after_ms=None):
        super().__init__(message)
        self.after_ms = after_ms


class Failed(Failure):
    """Anything else."""


@dataclass
class Output:
    """A result: text for the model, and an object for programs."""

    text: str
    structured: object = None


def tool(effect="at-most-once", title=None, read_only=False, destructive=False, open_world=False):
    """Makes a tool of a function: its name, its doc string, and its parameters with their types and defaults.

    A parameter of type `Annotated[T, "what it is", {"minimum": 1}]` brings a description and more of JSON Schema.
    T is `str`, `int`, `float`, `bool`, `dict`, `list[T]`, or `T | None`. The function returns a string or an `Output`.
    """

    def describe(function):
        function.tool = dict(
            name=function.__name__,
            title=title,
            description=inspect.getdoc(function) or "",
            input_schema=json.dumps(_input_schema(function), ensure_ascii=False),
            effect=effect,
            read_only=read_only,
            destructive=destructive,
            open_world=open_world,
        )
        return function

    return describe


def export(*functions):
    """What the component exports: assign it to `Tools` in the module that is built."""
    tools = {function.__name__: function for function in functions}

    class Tools:
        def definitions(self):
            return [_definition(function.tool) for function in functions]

        def call(self, request):
            try:
                function = tools.get(request.tool)
                if function is None:
                    raise NotFound(f"there is no tool {request.tool}")
                result = function(**json.loads(request.arguments))
            except Failure as failure:
                raise Err(_failure(failure)) from None
            except Exception as error:
                raise Err(_failure(Failed(f"{type(error).__name__}: {error}"))) from None
            output = result if isinstance(result, Output) else Output(result)
            structured = None if output.structured is None else json.dumps(output.structured, ensure_ascii=False)
            return wit.Output([wit.Content_Text(output.text)], structured, False)

    return Tools


def get(url, query=None):
    """A GET request through the host, which adds the key: write none into it. Raises a `Failure` if there is no answer."""
    parts = urlsplit(url)
    if wit is None:
        raise Denied(f"the request to {parts.netloc} was denied: there is no host here")
    request = http_types.OutgoingRequest(http_types.Fields())
    request.set_scheme(http_types.Scheme_Http() if parts.scheme == "http" else http_types.Scheme_Https())
    request.set_authority(parts.netloc)
    request.set_path_with_query((parts.path or "/") + ("?" + urlencode(query, quote_via=quote) if query else ""))
    try:
        future = outgoing_handler.handle(request, None)
        future.subscribe().block()
        response = _unwrap(_unwrap(future.get()))
    except Err as error:
        raise _refused(parts.netloc, error.value) from None
    headers = {name.lower(): value.decode("latin-1") for name, value in response.headers().entries()}
    return Answer(parts.netloc, response.status(), headers, lambda most: _body(parts.netloc, response, most))


class Answer:
    """An answer that came, whatever its status."""

    def __init__(self, host, status, headers, read):
        self.host, self.status, self.headers, self._read = host, status, headers, read

    def ok(self):
        """This answer if its status is one of success; else raises the `Failure` that the status stands for."""
        if 200 <= self.status < 300:
            return self
        message = f"{self.host} answered {self.status}"
        if self.status in (401, 403):
            raise Denied(message)
        if self.status in (404, 410):
            raise NotFound(message)
        if self.status in (408, 425, 429, 500, 502, 503, 504):
            after = self.headers.get("retry-after", "")
            raise Unavailable(message, int(after) * 1000 if after.isdecimal() else None)
        raise Failed(message)

    def body(self, most=65536):
        """The body, at most `most` bytes of it."""
        return self._read(most)

    def json(self, most=65536):
        """The body as JSON."""
        try:
            return json.loads(self.body(most))
        except ValueError:
            raise Failed(f"the answer of {self.host} is not the expected JSON") from None


_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array"}


def _input_schema(function):
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    properties = {}
    for parameter in parameters:
        properties[parameter.name] = schema = _schema(hints[parameter.name])
        if parameter.default not in (parameter.empty, None):
            schema["default"] = parameter.default
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint):
    if typing.get_origin(hint) is typing.Annotated:
        hint, *notes = typing.get_args(hint)
        schema = _schema(hint)
        for note in notes:
            schema.update({"description": note} if isinstance(note, str) else note)
        return schema
    given = [part for part in typing.get_args(hint) if part is not type(None)]
    origin = typing.get_origin(hint) or hint
    if origin is list:
        return {"type": "array", "items": _schema(given[0])} if given else {"type": "array"}
    if origin not in _TYPES and len(given) == 1:  # T | None
        return _schema(given[0])
    if origin not in _TYPES:
        raise TypeError(f"a parameter of a tool cannot be of type {hint}")
    return {"type": _TYPES[origin]}


def _definition(tool):
    effect = wit.Effect[tool["effect"].replace("-", "_").upper()]
    return wit.Definition(**{**tool, "effect": effect, "output_schema": None})


def _failure(failure):
    message = str(failure)
    match failure:
        case InvalidArguments():
            return wit.Failure_InvalidArguments(message)
        case Denied():
            return wit.Failure_Denied(message)
        case NotFound():
            return wit.Failure_NotFound(message)
        case Unavailable():
            return wit.Failure_Unavailable(wit.Retry(message, failure.after_ms))
    return wit.Failure_Failed(message)


def _refused(host, code):
    what = type(code).__name__.removeprefix("ErrorCode_")
    if what in ("HttpRequestDenied", "DestinationIpProhibited"):
        return Denied(f"the request to {host} was denied ({what})")
    if what.startswith(("Dns", "Destination", "Connection")) or what.endswith("Timeout"):
        return Unavailable(f"{host} cannot be reached: {what}")
    return Failed(f"the request to {host} failed: {what}")


def _body(host, response, most):
    incoming = _keep(_keep(response).consume())
    stream = _keep(incoming.stream())
    body = b""
    while len(body) <= most:
        try:
            body += stream.blocking_read(65536)
        except Err as error:
            if isinstance(error.value, streams.StreamError_Closed):
                return body
            raise Failed(f"the answer of {host} breaks off") from None
    raise Failed(f"the answer of {host} is longer than {most} bytes")


# The host refuses to take a resource back while another hangs on it, as a stream on its body. An instance serves one
# call and ends, so all may stay.
_kept = []


def _keep(resource):
    _kept.append(resource)
    return resource


def _unwrap(result):
    """What a nested `result` holds; raises its error."""
    if isinstance(result, Err):
        raise result
    return result.value
