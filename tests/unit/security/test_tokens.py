"""Tokens: what is ours and good, ours and not good, and not ours; the secret that signs them."""

import stat
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import partial
from pathlib import Path

import pytest

from openruntime.contracts.errors import Unauthorized
from openruntime.contracts.records import LOCAL, Principal
from openruntime.security.tokens import PREFIX, SECRET, Grant, TokenIssuer, secret

WHO = Principal("local/analyst:1", "local", frozenset({"tasks:read"}))


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer(lambda: b"0123456789abcdef0123456789abcdef")


def test_a_token_is_who_it_was_issued_to(issuer: TokenIssuer) -> None:
    claims = issuer.read(issuer.issue(WHO, seconds=60))
    assert claims is not None
    assert (claims.principal.id, claims.principal.tenant, claims.principal.scopes) == (WHO.id, WHO.tenant, WHO.scopes)


@pytest.mark.parametrize("token", ["", "sk-something-of-openai", "eyJhbGciOiJIUzI1NiJ9.e30.sig", "ort2.x.y"])
def test_what_is_not_ours_is_nobodys(issuer: TokenIssuer, token: str) -> None:
    assert issuer.read(token) is None


def tampered(token: str) -> list[str]:
    body, _, signature = token.removeprefix(PREFIX).partition(".")
    richer = urlsafe_b64encode(urlsafe_b64decode(body + "=" * (-len(body) % 4)).replace(b'"tasks:read"', b'"*"')).rstrip(b"=").decode()
    return [
        f"{PREFIX}{richer}.{signature}", f"{PREFIX}{body}.{signature[:-2]}xx", f"{PREFIX}{body}.", f"{PREFIX}{body}", f"{PREFIX}.{signature}", PREFIX,
        f"{PREFIX}{body}.{signature}=", f"{PREFIX}{body}.{signature}.{signature}", token + "A" * 5000, f"{PREFIX}é.\udcff",
        token.upper().replace("ORT1", "ort1"),
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(11))
def test_what_was_changed_is_refused(issuer: TokenIssuer, index: int) -> None:
    with pytest.raises(Unauthorized, match="not issued by this server, or was changed"):
        issuer.read(tampered(issuer.issue(WHO, seconds=60))[index])


def test_a_token_expires_not_later_than_whom_it_stands_for(issuer: TokenIssuer) -> None:
    with pytest.raises(Unauthorized, match="expired"):
        issuer.read(issuer.issue(WHO, seconds=-1))
    short = Principal("a", "local", frozenset(), time.time() - 1)
    with pytest.raises(Unauthorized, match="expired"):
        issuer.read(issuer.issue(short, seconds=60))


def test_anothers_token_is_refused(issuer: TokenIssuer) -> None:
    with pytest.raises(Unauthorized):
        issuer.read(TokenIssuer(lambda: b"another").issue(LOCAL, seconds=60))


def test_a_runs_token_ends_with_it(issuer: TokenIssuer) -> None:
    issuer.begin("run")
    token = issuer.issue(WHO, seconds=60, run="run")
    assert issuer.read(token)
    issuer.end("run")
    with pytest.raises(Unauthorized, match="has ended"):
        issuer.read(token)


def test_a_grant_is_good_once(issuer: TokenIssuer) -> None:
    token = issuer.issue(WHO, seconds=60, grant=Grant("DELETE", "/tasks/1", "0"))
    claims = issuer.read(token)
    assert claims is not None
    assert claims.grant == Grant("DELETE", "/tasks/1", "0")
    with pytest.raises(Unauthorized, match="one request"):
        issuer.read(token)


def test_the_secret_is_kept_for_the_owner_alone(tmp_path: Path) -> None:
    kept = tmp_path / "data"
    first = secret(kept)
    assert len(first) == 32
    assert secret(kept) == first
    assert stat.S_IMODE((kept / SECRET).stat().st_mode) == 0o600
    assert [path.name for path in kept.iterdir()] == [SECRET]
    (kept / SECRET).chmod(0o644)
    secret(kept)
    assert stat.S_IMODE((kept / SECRET).stat().st_mode) == 0o600
    assert secret(None) != secret(None)


def test_a_server_that_sees_no_token_makes_no_secret(tmp_path: Path) -> None:
    issuer = TokenIssuer(partial(secret, tmp_path / "data"))
    assert issuer.read("sk-none-of-ours") is None
    assert not (tmp_path / "data").exists()
