"""`llmsup chat TEXT`: one completion through the proxy, streamed."""

import http.client
import ipaddress
import json
import os
import shlex
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from supervisor.cli import completing, context, output
from supervisor.errors import ConfigError, LlmsupError, NotRunning

SILENCE_S = 300.0
KEY_VARIABLE = "LLMSUP_API_KEY"


@click.command("chat")
@click.argument("text", nargs=-1, required=True)
@click.option("--model", help="Which model [default: the default model].", shell_complete=completing.models)
@click.option("--system", help="A system message to begin with.")
@click.option("--max-tokens", type=click.IntRange(1), help="At most so many tokens.")
@click.option("--temperature", type=click.FloatRange(0), help="0 always takes the likeliest word.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as they come, one a line.")
def command(
    text: tuple[str, ...],
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    as_json: bool,
) -> None:
    """Ask one question through the proxy; the answer streams to the terminal.

    $LLMSUP_API_KEY is the key to ask with, where one is required.

    \b
    Examples:
      llmsup chat "Why is the sky blue?"
      llmsup chat --model demo --max-tokens 50 --temperature 0 Hello
      llmsup chat --system "Answer in French." "Good morning" --json
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": " ".join(text)})
    body: dict[str, Any] = {"messages": messages, "stream": True}
    optional = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    body |= {name: value for name, value in optional.items() if value is not None}
    said = False
    try:
        for event in _events(body):
            if as_json:
                output.echo(json.dumps(event))
            elif piece := _piece(event):
                output.echo(piece, nl=False)
                said = True
    except LlmsupError:
        if said:  # what is wrong goes on a line of its own
            output.echo()
        raise
    if said:
        output.echo()


def _events(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The stream's events; raises LlmsupError when it ends before it is finished."""
    host, port = context.listen()
    headers = _headers(host)
    connection = _connection(host, port, context.tls_cert())
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise _refused(answer.status, answer.read())
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                return
            event: dict[str, Any] = json.loads(data)
            if "error" in event:
                raise LlmsupError(event["error"]["message"])
            yield event
        raise LlmsupError("the answer was cut off", hint="see: llmsup status")
    except ConnectionRefusedError:
        raise NotRunning(f"nobody answers on {host}:{port}") from None
    except ssl.SSLCertVerificationError as exc:
        raise LlmsupError(
            f"{host}:{port} does not show the certificate of tls.cert_file: {exc.verify_message}",
            hint="was it changed? llmsup reload",
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise LlmsupError(f"the answer broke off: {exc!r}", hint="see: llmsup status") from exc
    finally:
        connection.close()


def _headers(host: str) -> dict[str, str]:
    """The key comes from the environment: a command line is everybody's to read.

    Raises:
        LlmsupError: a configuration that merely lay here would have it sent to another machine.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key and not (_is_loopback(host) or context.is_config_named()):
        path = context.config_path()
        raise LlmsupError(
            f"${KEY_VARIABLE} is not shown to {host}: {path} names it, and was only found, not asked for",
            hint=f"if it is yours: llmsup --config {shlex.quote(str(path))} chat ...",
        )
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def _is_loopback(host: str) -> bool:
    """Names but `localhost` are whatever a name server says (RFC 6761, 6.3)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in {"localhost", "localhost."}


def _connection(host: str, port: int, cert: Path | None) -> http.client.HTTPConnection:
    """To the port as configured. With TLS, that very certificate is wanted, whoever signed it and whatever
    names it has: it lies on this machine, and this address need not be among its names.
    """
    if cert is None:
        return http.client.HTTPConnection(host, port, timeout=SILENCE_S)
    from supervisor.tls import first_certificate

    try:
        own = first_certificate(cert.read_text("ascii", "replace"))
    except OSError as exc:
        raise ConfigError(f"tls.cert_file: {cert} cannot be read: {exc.strerror}") from None
    if own is None:
        raise ConfigError(f"tls.cert_file: {cert} holds no certificate (PEM)")
    only = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    only.check_hostname = False
    only.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is the anchor, be it self-signed or not
    only.load_verify_locations(cadata=own)
    return http.client.HTTPSConnection(host, port, timeout=SILENCE_S, context=only)


def _refused(status: int, body: bytes) -> LlmsupError:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = " ".join(body.decode("utf-8", "replace").split())[:200]  # somebody else's page, on one line
    return LlmsupError(f"{status}: {message}")


def _piece(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return delta.get("reasoning_content") or delta.get("content") or ""
