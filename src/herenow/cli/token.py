"""``herenow token``: makes what lets somebody in: a client's token for trying out, or a program's key."""

import hashlib
import secrets
import sys
from typing import Annotated, Any

import msgspec
import typer

from herenow.cli.options import CouldNotLook, Json, checked_tenant, parse_duration_ms, run_quietly
from herenow.cli.output import GOOD, out, print_json
from herenow.digests import HASHED
from herenow.settings import Settings
from herenow.times import to_iso, unix_s
from herenow.wire import UserId


@run_quietly
def token(
    user: Annotated[str | None, typer.Option(metavar="ID", help="A client's token, signed with jwt_secret.")] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="With --user: whom they may watch; by default all. Repeat it."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --user or --api-key: whose; by default of no tenant.")
    ] = None,
    lives: Annotated[
        int | None,
        typer.Option(
            "--for",
            parser=parse_duration_ms,
            metavar="TIME",
            help="With --user: how long it counts.",
            show_default="1h",
        ),
    ] = None,
    api_key: Annotated[bool, typer.Option("--api-key", help="A key for a program that reads over HTTP.")] = False,
    admin_token: Annotated[bool, typer.Option("--admin-token", help="A key for an operator of /v1/admin.")] = False,
    json: Json = False,
) -> int:
    """Make a client's token to try with, or a key for the settings.

    A key is shown once: the settings need only its digest.
    """
    kinds = {"--user": user is not None, "--api-key": api_key, "--admin-token": admin_token}
    asked = [kind for kind, is_asked in kinds.items() if is_asked]
    if not asked:
        raise CouldNotLook("say what to make: --user ID, --api-key or --admin-token")
    if len(asked) > 1:
        raise CouldNotLook(f"{' and '.join(asked)} make different things: run the command once for each")
    checked_tenant(tenant)
    if admin_token and tenant is not None:
        raise CouldNotLook("an operator's key is for all tenants: --tenant goes with --user or --api-key")
    if user is None:
        if watch or lives is not None:
            raise CouldNotLook("--watch and --for go with --user: a key counts until it is taken out of the settings")
        return _tell_key("api_keys" if api_key else "admin_tokens", tenant, json=json)
    watched = [_checked(each) for each in watch or ()]
    made, ends_ms = _sign(_checked(user), tenant, watched, lives or 3_600_000)
    if json:
        print_json({"token": made, "expires": to_iso(ends_ms)})
    else:
        sys.stdout.write(made + "\n")  # alone, so that it can be piped
    return GOOD


def _checked(user: str) -> str:
    try:
        return msgspec.convert(user, UserId)
    except msgspec.ValidationError as error:
        raise CouldNotLook(f"{user!r} is no user id: 1 to 128 characters, no control characters") from error


def _sign(user: str, tenant: str | None, watch: list[str], lives_ms: int) -> tuple[str, int]:
    import jwt  # here: it brings the cryptography, which --help does not need

    settings = Settings.load()
    secret = settings.jwt_secret
    if secret is None:
        raise CouldNotLook(
            "there is no jwt_secret to sign with: run this where herenow.toml or HERENOW_JWT_SECRET has the server's; "
            "who signs with a private key makes tokens there; a server under --dev needs none"
        )
    now_s = int(unix_s())
    claims: dict[str, Any] = {settings.jwt_user_claim: user, "iat": now_s, "exp": now_s + max(1, lives_ms // 1000)}
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience is not None:
        claims["aud"] = settings.jwt_audience
    if watch:
        claims["watch"] = watch
    if tenant is not None:
        claims["tenant"] = tenant
    return jwt.encode(claims, secret.get_secret_value(), algorithm="HS256"), claims["exp"] * 1000


def _tell_key(setting: str, tenant: str | None, *, json: bool) -> int:
    key = secrets.token_urlsafe(32)
    digest = HASHED + hashlib.sha256(key.encode()).hexdigest()
    if tenant is not None:
        setting = f"tenant_{setting}"
    if json:
        made: dict[str, object] = {"key": key, "setting": setting, "digest": digest}
        print_json(made if tenant is None else {**made, "tenant": tenant})
        return GOOD
    out.print(f"key      [bold]{key}[/]", soft_wrap=True)
    out.print("         send it as Authorization: Bearer; it is kept nowhere", style="dim", soft_wrap=True)
    value = f'\\["{digest}"]'
    if tenant is not None:
        value = f'{{ "{tenant}" = {value} }}'
    out.print(f"setting  {setting} = {value}", soft_wrap=True)
    return GOOD
