"""
Redaction: what is a secret is taken out, what is none stays, and looking costs little.
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import string
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from harken import JSON
from harken.errors import RedactionError
from harken.redaction import Redactor, is_secret_name
from harken.redaction._values import SCHEMA_KEYWORDS

# Made at run time, so that no file of the project holds what a scanner takes for a secret.
_RANDOM = random.Random(7)
MADE: list[str] = []
"""What was made up: in what is redacted, nothing of it may be left."""


def some(alphabet: str, length: int) -> str:
    made = "".join(_RANDOM.choice(alphabet) for _ in range(length))
    MADE.append(made)
    return made


LETTERS = string.ascii_letters
ALNUM = LETTERS + string.digits
WORD = ALNUM + "_-"
HEX = "0123456789abcdef"
BASE32 = string.ascii_uppercase + "234567"


def begin(kind: str) -> str:
    return "-----" + f"BEGIN {kind}-----\n"


def end(kind: str) -> str:
    return "\n-----" + f"END {kind}-----"


JWT = ".".join(("ey" + "J" + some(WORD, 30), "ey" + "J" + some(WORD, 60), some(WORD, 43)))

# From what it is to its kind and itself, as it stands in a text.
SECRETS: dict[str, tuple[str, str]] = {
    "aws id": ("aws_access_key", "AK" + "IA" + some(BASE32, 16)),
    "aws session id": ("aws_access_key", "AS" + "IA" + some(BASE32, 16)),
    "aws id of digits": ("aws_access_key", "AK" + "IA" + some("0189AZ", 16)),
    **{f"github {kind}": ("github_token", f"gh{kind}" + "_" + some(ALNUM, 36)) for kind in "pousr"},
    "github pat": ("github_pat", "github" + "_pat_" + some(ALNUM, 22) + "_" + some(ALNUM, 59)),
    "gitlab": ("gitlab_pat", "gl" + "pat-" + some(WORD, 20)),
    "slack bot": (
        "slack_token",
        "xo" + f"xb-{some('123', 11)}-{some('123', 11)}-{some(ALNUM, 24)}",
    ),
    "slack user": ("slack_token", "xo" + f"xp-{some('123', 11)}-{some(ALNUM, 24)}"),
    "slack refresh": ("slack_token", "xo" + f"xe-1-{some(ALNUM, 146)}"),
    "slack app": ("slack_app", "xa" + f"pp-1-{some(BASE32, 11)}-{some('123', 13)}-{some(HEX, 64)}"),
    "slack webhook": ("slack_webhook", "https://hooks.slack" + ".com/services/" + some(ALNUM, 40)),
    "jwt": ("jwt", JWT),
    "jwt behind a word": ("jwt", "session_" + JWT),
    "long jwt": (
        "jwt",
        ".".join(("ey" + "J" + some(WORD, 30), "ey" + "J" + some(WORD, 9000), some(WORD, 2500))),
    ),
    "jwt without signature": ("jwt", "ey" + "J" + some(WORD, 30) + ".ey" + "J" + some(WORD, 60)),
    "encrypted jwt": (
        "jwt",
        ".".join(("ey" + "J" + some(WORD, 40), *(some(WORD, size) for size in (90, 16, 60, 22)))),
    ),
    "rsa key": ("private_key", begin("RSA PRIVATE KEY") + some(ALNUM, 64) + end("RSA PRIVATE KEY")),
    "openssh key": (
        "private_key",
        begin("OPENSSH PRIVATE KEY") + some(ALNUM, 64) + end("OPENSSH PRIVATE KEY"),
    ),
    "pgp key": (
        "private_key",
        begin("PGP PRIVATE KEY BLOCK") + some(ALNUM, 64) + end("PGP PRIVATE KEY BLOCK"),
    ),
    "escaped key": (
        "private_key",
        (begin("PRIVATE KEY") + some(ALNUM, 64) + end("PRIVATE KEY")).replace("\n", "\\n"),
    ),
    "cut key": ("private_key", begin("PRIVATE KEY") + some(ALNUM, 64)),
    "key without its beginning": (
        "private_key",
        f"{some(ALNUM, 40)}\n  {some(ALNUM, 64)}\n  {some(ALNUM, 20)}" + end("PRIVATE KEY"),
    ),
    "openai": ("openai", "sk" + "-" + some(ALNUM, 20) + "T3Blbk" + "FJ" + some(ALNUM, 20)),
    "openai project": (
        "openai",
        "sk" + "-proj-" + some(WORD, 60) + "T3Blbk" + "FJ" + some(WORD, 60),
    ),
    "openai service": ("openai", "sk" + "-svcacct-" + some(WORD, 120)),
    "anthropic": ("anthropic", "sk" + "-ant-api03-" + some(WORD, 90)),
    "long anthropic": ("anthropic", "sk" + "-ant-api03-" + some(WORD, 300)),
    "google": ("gcp_api_key", "AI" + "za" + some(WORD, 35)),
    "stripe": ("stripe", "sk" + "_live_" + some(ALNUM, 24)),
    "restricted stripe": ("stripe", "rk" + "_test_" + some(ALNUM, 99)),
    "npm": ("npm", "np" + "m_" + some(ALNUM, 36)),
    "pypi": ("pypi", "py" + "pi-AgEIcHlwaS5vcmc" + some(WORD, 80)),
    "sendgrid": ("sendgrid", "S" + f"G.{some(WORD, 22)}.{some(WORD, 43)}"),
    "huggingface": ("huggingface", "h" + "f_" + some(LETTERS, 34)),
    "twilio": ("twilio", "S" + "K" + some(HEX, 32)),
    "azure": ("azure_storage", "Account" + "Key=" + some(ALNUM, 86) + "=="),
    "azure signature": ("azure_sas", "https://a.blob/c?sv=1&sig=" + some(ALNUM, 43) + "%3D&se=2"),
    "digitalocean": ("digitalocean", "do" + "p_v1_" + some(HEX, 64)),
    "vault": ("vault", "hv" + "s." + some(WORD, 24)),
    "telegram": ("telegram", some("123456789", 9) + ":A" + "A" + some(ALNUM, 33)),
    "postgres": ("url_credentials", f"postgresql://user:{some(ALNUM, 9)}%40word@db/x"),
    "redis": ("url_credentials", f"redis://:{some(ALNUM, 12)}@cache:6379/0"),
    "amqp": ("url_credentials", f"amqp://a%20b:{some(ALNUM, 8)}%3Ad@mq"),
    "unescaped": ("url_credentials", f"https://u:p@{some(ALNUM, 9)}#?:{some(ALNUM, 9)}@host:80/a"),
    "long in a url": ("url_credentials", f"https://oauth2:{some(WORD, 900)}@git.example/a.git"),
    "user of a url": ("url_credentials", f"https://{some(HEX, 39)}7@git.example/a.git"),
    "bearer": ("auth_header", "Authorization: Bearer " + some(WORD, 20) + "7"),
    "bearer of letters": ("auth_header", "Authorization: Bearer " + some(LETTERS, 20)),
    "bearer alone": ("auth_header", "use bearer " + some(ALNUM, 30) + "7"),
    "basic": ("auth_header", "Authorization: Basic " + some(ALNUM, 23) + "="),
    "short basic": ("auth_header", "authorization: basic " + some(LETTERS, 12)),
    "digest": ("auth_header", f'Authorization: Digest username="u", response="{some(HEX, 32)}"'),
    "bare header": ("assignment", "Authorization: " + some(ALNUM, 30) + "7"),
    "api header": ("assignment", "X-Api-Key: " + some(ALNUM, 10)),
    "cookie": ("cookie", "Set-Cookie: sid=" + some(ALNUM, 10)),
    "assignment": ("assignment", "db_password = " + some(ALNUM, 20)),
    "quoted": ("assignment", "client_secret: '" + some(ALNUM, 12) + "'"),
    "several words": ("assignment", f'passphrase = "{some(ALNUM, 9)} {some(ALNUM, 9)}, {"x" * 3}"'),
    "long value": ("assignment", "password: " + some(ALNUM, 600)),
    "punctuation": ("assignment", f"password={some(ALNUM, 8)},{some(ALNUM, 8)}&{some(ALNUM, 8)}"),
    "backslash": ("assignment", f"password={some(ALNUM, 8)}\\n{some(ALNUM, 8)}"),
    "dollar": ("assignment", f"password=$1!{some(ALNUM, 8)}"),
    "json in text": ("assignment", '{"password": "' + some(ALNUM, 12) + '"}'),
    "token in json": ("assignment", 'got {"token": "' + some(ALNUM, 8) + '", "n": 1}'),
    "number in json": ("assignment", 'got {"pin": 1, "token": ' + some("123456789", 9) + "}"),
    "cut json": ("assignment", '{"a": 1, "clientSecret": "' + some(ALNUM, 12)),
    "escaped json": ("assignment", r"{\"api_key\": \"" + some(ALNUM, 12) + r"\"}"),
    "python": ("assignment", "{'refresh_token': '" + some(ALNUM, 12) + "'}"),
    "yaml": ("assignment", "  token: " + some(ALNUM, 24) + "7\n  next: 1"),
    "ado": ("assignment", "Server=db;User Id=a;Password=" + some(ALNUM, 12) + ";"),
    "query": ("assignment", "/cb?a=1&access_token=" + some(ALNUM, 12) + "&b=2"),
    "aws secret": ("assignment", "aws_secret_access_key=" + some(ALNUM, 40)),
    "shell": ("assignment", "export STRIPE_KEY=" + some(ALNUM, 9) + "; ./run"),
    "plain token": ("assignment", "token = " + some(ALNUM, 24)),
    "two words": ("assignment", "the api key: " + some(ALNUM, 24)),
    "flag": ("flag", "deploy --api-token=" + some(ALNUM, 5)),
    "flag and word": ("flag", "mysql --password " + some(ALNUM, 12) + "7 --host db"),
    "flag and quoted word": (
        "flag",
        f"run --client-secret '{some(LETTERS, 9)} {some(LETTERS, 9)}'",
    ),
}


def leaked(text: str, secret: str) -> str | None:
    """
    Return what of *secret* stands in *text*: any eight characters that were made up.
    """
    for made in MADE:
        if len(made) >= 5 and made in secret:
            width = len(made) if made.isdigit() else min(8, len(made))
            for start in range(len(made) - width + 1):
                if made[start : start + width] in text:
                    return made[start : start + width]
    return None


HARMLESS = [
    "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "00000000-0000-7000-8000-000000000005",
    "sha256:" + "ab" * 32,
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tokenizer/token stream",
    "reset your password",
    "the primary key of the table",
    "author and authority",
    "input_tokens=1234567",
    "curl -H $API_KEY",
    "password=${DB_PASSWORD}",
    "api_key=<your-token>",
    '"password=(see the page about passwords)"',
    "password=******",
    "[REDACTED]",
    "[REDACTED:github_token]",
    "https://host:8080/path?mail=a@b",
    "git@host:a/b.git",
    "mailto:someone@example.org",
    "12:34:56:789",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA",
    "risk-assessment-of-a-long-running-job-2026",
    "MAKIAVELLIAN",
    "eyes.eyebrow",
    begin("PUBLIC KEY") + "MIIB" + end("PUBLIC KEY"),
    begin("CERTIFICATE") + "MIIB" + end("CERTIFICATE"),
    "ghp_short",
    "the bearer of this letter may enter",
    "Basic usage of the tool is easy",
    "SK8ER",
    "def get_token(self, key=None): ...",
    "~/.ssh/id_rsa.pub",
    "\u5bc6\u7801\u548c\u4ee4\u724c",
    "a cookie: the recipe",
    "https://host:8080?mail=a@b",
    "see http://localhost:3000, or mail me@example.org",
    "SyntaxError: Unexpected token: identifier",
    "invalid token: expected a number",
    "Password: required.",
    "the password is: wrong",
    "secrets: inherit",
    "id-token: write",
    "token: ${{ secrets.PYPI_TOKEN }}",
    "password = getpass.getpass()",
    "token = os.environ['X']",
    "api_key=None, token=None",
    "--password <password>",
    "use the --password flag, or --token to be asked",
    "next_token=abcdefgh12345678&page_token=abcdefgh12345678",
    "PRIMARY_KEY=abcdefgh12345678",
    "PWD=/home/me",
    "OLDPWD=/tmp/x",
    '{"type":"object","properties":{"password":{"type":"string","minLength":8}},"required":["token"]}',
    '{"token_type": "bearer", "expires_in": 3600, "input_tokens": 12}',
    "max_tokens: 4096, total_tokens = 123456789",
    "passwd: all authentication tokens updated successfully",
    "secretary: Johnson1, tokenizer=abcdefgh12345678",
    "eyJhbGciOiJIUzI1NiJ9",
    "arn:aws:iam::123456789012:role/secret-reader",
    "monkey: banana12345, keyboard = abcdefgh12345678",
    "compass=abcdefgh12345678",
    "ssh://git@host.example:22/a.git",
    "https://user@host/path",
    "sk-learn and task-force",
    "if token == 'end': pass",
    "ASIAN and AKIA",
    "x = y",
    "",
]

SECRET_NAMES = [
    "password", "db_password", "Authorization", "api_key", "apiKey", "API-KEY", "x-api-key",
    "clientSecret", "set-cookie", "refresh_token", "accessToken", "credentials", "passphrase",
    "AWS_SECRET_ACCESS_KEY", "OPENAI_KEY", "SMTP_PASS", "token", "token2", "Proxy-Authorization",
    "X-Auth-Token", "private.key", "JWT", "auth", "PGPASSWORD", "dbpassword", "passWord",
    "SecretString", "SecretAccessKey", "token_value", "api_keys", "access_tokens", "_authToken",
    "Ocp-Apim-Subscription-Key", "X-CSRFToken", "_auth", "password_1", "STRIPE_KEY_2",
]  # fmt: skip

HARMLESS_NAMES = [
    "input_tokens", "token_type", "primary_key", "PRIMARY_KEY", "author", "authority", "keyboard",
    "monkey", "key", "credential_id", "token_budget", "result_digest", "token_count", "max_tokens",
    "public_key", "next_token", "has_password_reset", "pass", "passed", "compass", "tokens_used",
    "", "7", "secretary", "nextPageToken", "max_token", "prompt_tokens", "key_value", "hotkeys",
    "nexttoken",
    "microservice_name", "auth_url", "secret_name", "oauth", "value", "raw_string",
]  # fmt: skip


@pytest.fixture(params=["re2", "python"])
def redactor(request: pytest.FixtureRequest) -> Redactor:
    return Redactor(engine=request.param)


def line(value: JSON) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def redacted(redactor: Redactor, value: JSON) -> JSON:
    """
    Do what the encoder of a bus does.
    """
    return redactor.tree(value, {}) if redactor.suspicious(line(value)) else value


@pytest.mark.parametrize("name", SECRETS)
def test_known_kinds(redactor: Redactor, name: str) -> None:
    """
    Every listed kind is found, named and counted, wherever it stands in a text.
    """
    kind, secret = SECRETS[name]
    for text in (secret, f"before\n{secret}", f'"{secret}" after', f"see:{secret}\n"):
        value = {"note": [text]}
        counts: dict[str, int] = {}
        assert redactor.suspicious(line(value))
        (found,) = redactor.tree(value, counts)["note"]
        assert None is leaked(found, secret)
        # A variable or a JSON text on its own is known by its names.
        assert f"[REDACTED:{kind}]" in found or re.search(
            r'=\[REDACTED:key]|": "\[REDACTED:key]', found
        )
        assert sum(counts.values()) == found.count("[REDACTED:")


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless(redactor: Redactor, text: str) -> None:
    """
    What only looks a little like a secret stays as it is.
    """
    assert text == redactor.text(text)
    assert {"a": [text]} == redacted(redactor, {"a": [text]})


@pytest.mark.parametrize("names", [*permutations(("password", "token", "api_key", "cookie"))])
def test_several_in_any_order(redactor: Redactor, names: Sequence[str]) -> None:
    """
    Of several settings in one text, each value is taken out.
    """
    values = [some(ALNUM, 12) for _ in names]
    text = "".join(f" {name}={value}" for name, value in zip(names, values, strict=True))

    kept = redactor.text(f"run it with{text}")

    masked = "".join(f" {name}=[REDACTED:assignment]" for name in names)
    assert f"run it with{masked}" == kept


@pytest.mark.parametrize(
    ("text", "length"), [("password=", 4), ("password: ", 6), ("token=", 6), ("password='", 1)]
)
def test_shortest_value(redactor: Redactor, text: str, length: int) -> None:
    """
    How short a value may be depends on how sure it is that it is one.
    """
    quote = "'" if text.endswith("'") else ""
    whole, short = (f"with {text}{some(ALNUM, length - less)}{quote}" for less in (0, 1))

    assert f"with {text}[REDACTED:assignment]{quote}" == redactor.text(whole)
    assert short == redactor.text(short)


def test_schema_with_every_keyword(redactor: Redactor) -> None:
    """
    What describes a password is none, and all of the words for that may stand there together.
    """
    schema: dict[str, JSON] = dict.fromkeys(SCHEMA_KEYWORDS, 1)
    value = {"password": {**schema, "type": "string", "default": ""}}

    assert value == redacted(redactor, value)


@pytest.mark.parametrize(
    "secret", ["ghp_" + "a1B2c3D4" * 5, "AKIAIOSFODNN7EXAMPLE", "npm_" + "a1B2c3D4e5F6" * 3]
)
@pytest.mark.parametrize("form", ["{}.token=abcdefgh", "{}_token=abcdefgh", "-{}-token=abcdefgh"])
def test_secret_in_a_name(redactor: Redactor, secret: str, form: str) -> None:
    """
    A secret in the name of a setting is taken out like the value under it.
    """
    kept = redacted(redactor, form.format(secret))

    assert isinstance(kept, str)
    assert secret not in kept
    assert "abcdefgh" not in kept


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secret_names(redactor: Redactor, name: str) -> None:
    """
    A value under such a name is a secret, whatever it looks like.
    """
    assert is_secret_name(name)
    for value in ("x", 7, ["a"], {"user": "u"}):
        assert {name: "[REDACTED:key]"} == redacted(redactor, {name: value})


@pytest.mark.parametrize("name", ["$PASSWORD", "<token>", "%API_KEY%"])
def test_names_like_placeholders(redactor: Redactor, name: str) -> None:
    """
    Only as a value such a text stands for something else; as a name it is a name.
    """
    assert {name: "[REDACTED:key]"} == redacted(redactor, {name: "x"})


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_harmless_names(redactor: Redactor, name: str) -> None:
    """
    Names that only contain such words are ordinary names.
    """
    assert not is_secret_name(name)
    assert {name: "x"} == redacted(redactor, {name: "x"})


@pytest.mark.parametrize(
    "value", [None, True, "", [], {}, {"type": "string"}, "$PASSWORD", "<password>", "****"]
)
def test_no_value(redactor: Redactor, value: JSON) -> None:
    """
    What holds no secret stays, also under a secret's name.
    """
    assert {"password": value} == redacted(redactor, {"password": value})


def test_lists(redactor: Redactor) -> None:
    """
    The value after a flag, and a variable of an environment, are secrets.
    """
    value = ["--user", "u", "--password", "x", "-token", "y", "--password", "$P", "API_TOKEN=z"]

    assert [
        *("--user", "u", "--password", "[REDACTED:flag]", "-token", "[REDACTED:flag]"),
        *("--password", "$P", "API_TOKEN=[REDACTED:key]"),
    ] == redacted(redactor, value)


def test_secret_as_a_key(redactor: Redactor) -> None:
    """
    A secret that is a key is one, too.
    """
    _, secret = SECRETS["github p"]

    assert {"[REDACTED:github_token]": 1} == redacted(redactor, {secret: 1})

    two = {SECRETS["github p"][1]: 1, SECRETS["github o"][1]: 2}
    assert {"[REDACTED:github_token]": 1, "[REDACTED:github_token]~": 2} == redacted(redactor, two)


KEY, FLAG = "[REDACTED:key]", "[REDACTED:flag]"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "X-Token", "value": "v"}, {"name": "X-Token", "value": KEY}),
        ({"value": "v", "key": "DB_PASS"}, {"value": KEY, "key": "DB_PASS"}),
        ({"name": "X-Token", "value": None}, {"name": "X-Token", "value": None}),
        ({"name": "color", "value": "v"}, {"name": "color", "value": "v"}),
        ([["Cookie", "v"], ["Accept", "*/*"]], [["Cookie", KEY], ["Accept", "*/*"]]),
        ([["password", "token"], "x"], [["password", "token"], "x"]),
        (["password", "token"], ["password", "token"]),
        (["run", "--pin-token", 1234, "-v"], ["run", "--pin-token", FLAG, "-v"]),
        (["run", "--next-token", "v"], ["run", "--next-token", "v"]),
        (["run", "--password", ["v"]], ["run", "--password", ["v"]]),
        ("DB_PASSWORD=correct horse battery", f"DB_PASSWORD={KEY}"),
        ("--password=correct horse", f"--password={FLAG}"),
        ("PASSWORD=none", "PASSWORD=none"),
        ({"password": {"type": "plain", "value": "v"}}, {"password": KEY}),
        ({"password": {"type": "string", "default": "v"}}, {"password": KEY}),
        ({"token": {"$ref": "#/a", "title": "A"}}, {"token": {"$ref": "#/a", "title": "A"}}),
        ({"token": {"anyOf": [{"type": "null"}]}}, {"token": {"anyOf": [{"type": "null"}]}}),
        ({"pwd": "/home/me", "OLDPWD": "~"}, {"pwd": "/home/me", "OLDPWD": "~"}),
        ('{"credentials": {"a": "b"}}', f'{{"credentials": "{KEY}"}}'),
        (
            '{"a":{"token":"v","token":1}}',
            '{"a":{"token":"[REDACTED:assignment]","token":"[REDACTED:assignment]"}}',
        ),
        ('["--token","v"]', f'["--token","{FLAG}"]'),
        (r'["{\"pwd\": \"\u00e9\"}", 1.50]', rf'["{{\"pwd\": \"{KEY}\"}}", 1.5]'),
        ('{"a": 1.50,  "b": "password"}', '{"a": 1.50,  "b": "password"}'),
        (
            "args {'credentials': ['a]', \"b'\"], 'n': 1}",
            "args {'credentials': '[REDACTED:assignment]', 'n': 1}",
        ),
        ("cut {'credentials': ['a', {'b': 'c'}, ", "cut {'credentials': '[REDACTED:assignment]'"),
        ("a {'token': {'type': 'string'}}", "a {'token': {'type': 'string'}}"),
        ("a {'token': b'v'}", "a {'token': b'[REDACTED:assignment]'}"),
        ("a {'value': 'v', 'name': 'jwt'}", "a {'value': '[REDACTED:assignment]', 'name': 'jwt'}"),
        ("a {'value': 'v', 'name': 'x'}, token", "a {'value': 'v', 'name': 'x'}, token"),
        ("a {'name': 'jwt', 'value': 'v'}", "a {'name': 'jwt', 'value': '[REDACTED:assignment]'}"),
        (
            "a [('user', 'v'), ('my_application_database_password', 'v')]",
            "a [('user', 'v'), ('my_application_database_password', '[REDACTED:assignment]')]",
        ),
        ("a [('jwt', 'v'), ('a', 'b')]", "a [('jwt', '[REDACTED:assignment]'), ('a', 'b')]"),
        ("a ['--token', 'v', '-x']", f"a ['--token', '{FLAG}', '-x']"),
        ("a ['--token', '--user']", "a ['--token', '--user']"),
        ("a ['TOKEN=b c', 'd']", "a ['TOKEN=b c', 'd']"),
        ("a ['TOKEN=bcdefgh i', 'd']", "a ['TOKEN=[REDACTED:assignment]', 'd']"),
        ("a 'TOKEN=bcdefgh; X=1' b", "a 'TOKEN=[REDACTED:assignment]; X=1' b"),
        ("\u0130\u0130 token = abcdefgh", "\u0130\u0130 token = [REDACTED:assignment]"),
        ("token: " + "a" * 20, "token: [REDACTED:assignment]"),
        ("token: " + "a" * 19, "token: " + "a" * 19),
        ("token: https://docs.example/reference", "token: https://docs.example/reference"),
        ("secret: 'a\\'b' c", "secret: '[REDACTED:assignment]' c"),
        ('secret: "a\nb', 'secret: "[REDACTED:assignment]\nb'),
    ],
)
def test_places(redactor: Redactor, given: JSON, expected: JSON) -> None:
    """
    Headers, environments, command lines, JSON and Python's own notation are understood.
    """
    assert expected == redacted(redactor, given)


def test_deep_json() -> None:
    """
    JSON in a text that is nested more deeply than Python recurses is a text like any other.
    """
    text = "[" * 100_000 + '"password=abcdefgh"' + "]" * 100_000

    assert '"password=[REDACTED:assignment]"' in Redactor().text(text)


def test_whole_jwt(redactor: Redactor) -> None:
    """
    Of a token with a signature nothing is left.
    """
    assert "a [REDACTED:jwt] b" == redactor.text(f"a {JWT} b")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8"))
    | st.sampled_from([secret for _, secret in SECRETS.values()])
    | st.sampled_from(HARMLESS),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(
            st.sampled_from(SECRET_NAMES + HARMLESS_NAMES) | st.text(st.characters(codec="utf-8")),
            inside,
            max_size=4,
        )
    ),
    max_leaves=12,
)
AROUND = st.text(st.sampled_from("ab_-.:=/@\"'\\\n\t\x00\u00e9 "), max_size=4)

PIECES = st.sampled_from(
    [
        *("token", "password", "api_key", "--secret", "auth", "PASS", "_KEY", "value", "name"),
        *("=", ":", " ", '"', "'", "\\", "\n", ",", ";", "&", "{", "}", "[", "]", "://", "@", "."),
        *("abc", "x1", "12345678", "-", "None", "type", "string", "bearer ", "cookie: ", "$", "b"),
        *("abcdefgh12345678", "[REDACTED:key]", "ey" + "J", "a" * 20, "\u0130", "\u00e9"),
    ]
)
NESTINGS: list[Callable[[str], str]] = [
    str,
    repr,
    json.dumps,
    lambda text: json.dumps({"a": [text]}),
    lambda text: json.dumps([json.dumps({"a": text})]),
    lambda text: f"got {json.dumps({'a': json.dumps([text])})}",
    lambda text: f"got { ({'a': [text]})!r}",
    lambda text: f"got { ({'a': json.dumps([text])})!r}",
]


def with_escapes(value: JSON, every: int, slashes: bool) -> str:
    """
    Return *value* as JSON that means the same, where each so many-th letter of a text is an escape
    that is not needed, and a slash too if asked for.
    """
    parts: list[str] = []
    inside = False
    for part in re.findall(r"\\u.{4}|\\.|.", json.dumps(value)):
        inside ^= part == '"'
        if inside and len(parts) % every == 0 and part.isalnum():
            part = f"\\u{ord(part):04x}"
        elif slashes and part == "/":
            part = r"\/"
        parts.append(part)
    return "".join(parts)


ODD_NAMES = [
    *(
        "MY_KEY",
        "DB_PASS",
        "pass word",
        "pass\nword",
        'pass"word',
        "pass\\word",
        "api\tkey",
        "api/key",
    ),
    *(
        "to\u212aen",
        "\uff41\uff50\uff49_key",
        "token\x00",
        "token\x1b[0m",
        "tokentoken",
        "jwt1_value",
    ),
    *("badge", "BADGE", "badg\u0435", "x" * 260 + "_token", "token" + "_" * 260),
]
NAMES = st.sampled_from(SECRET_NAMES + HARMLESS_NAMES + ODD_NAMES)
SUSPECT_TEXTS = (
    st.tuples(
        st.sampled_from(
            ["", "--", "-", "--my-", "{", "{'", '{"', '["', '[["', "[('", "$", "\n", "\\", '"']
        ),
        NAMES,
        st.sampled_from(
            [
                *(
                    "=",
                    ":",
                    " ",
                    "=>",
                    ": ",
                    " = ",
                    '": "',
                    "': '",
                    '", "',
                    '\\": \\"',
                    "`: `",
                    "\t= ",
                ),
                *(
                    ", [",
                    "\v, (",
                    '": [',
                    "': {'a': '",
                    "\n",
                    "\t",
                    '", "value": "',
                    "%3D",
                    "\u00a0= ",
                ),
            ]
        ),
        st.sampled_from(
            [
                *("a1B2c3D4e5F6g7H8i9J0", "hunter22", "x", "12345678", "None", "$X", "<a>", "[1]"),
                *("https://u:pw@h/", "bearer\ta1B2c3D4e5F6g7H8", "[REDACTED:key]", '{"a":1}', ""),
            ]
        ),
        st.sampled_from(["", '"', "'", "}", '"}', "]", "'}", '\\"', " ", ";", ", b"]),
    ).map("".join)
    | st.sampled_from([secret for _, secret in SECRETS.values()] + HARMLESS)
    | st.builds(
        # Nearly a secret: something is put in the place of one of its letters.
        lambda secret, place, letter: (
            secret[: place % len(secret)] + letter + secret[place % len(secret) + 1 :]
        ),
        st.sampled_from([secret for _, secret in SECRETS.values()]),
        st.integers(0, 400),
        st.sampled_from(
            ["", "\n", "\t", '"', "\\", "\u00e9", "\u212a", "_", "-", " ", "\x00", "\x7f"]
        ),
    )
)
SUSPECTS = st.recursive(
    SUSPECT_TEXTS | NAMES | st.none() | st.integers(0, 99_999_999),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.tuples(NAMES, inside).map(lambda pair: [list(pair)])
        | st.tuples(NAMES.map("--{}".format), inside).map(list)
        | st.dictionaries(NAMES | SUSPECT_TEXTS, inside, max_size=3)
        | st.builds(lambda name, value: {"name": name, "value": value}, NAMES, inside)
        | st.builds(with_escapes, inside, st.sampled_from([1, 3, 10, 999]), st.booleans())
    ),
    max_leaves=6,
)
"""Secrets and what nearly is one, in JSON and in JSON in a text, written in unusual ways, too."""

OPTIONS: list[dict[str, Any]] = [
    {},
    {"engine": "python"},
    {"keys": ["badge", "api/key", "my_key"]},
    {"keys": ["badge"], "allow_keys": ["token"], "allow": ["hunter22"]},
    {"patterns": {"hunter": "hunter[0-9]+"}},
    {"hash_key": b"sixteen random bytes"},
]


@pytest.mark.parametrize(
    "text",
    [
        r'{"\u0070assword":"hunter22"}',
        r'{"a":"{\"pa\\u0073sword\":\"hunter22\"}"}',
        r'{"a":"https:\/\/user:hunter22@host\/"}',
        r'{"a":"https://user:hunter22\u0040host/"}',
        r'{"a":"/c?a=1\u0026sig=' + "a1B2" * 12 + '"}',
        r'{"a":"bearer\ta1B2c3D4e5F6g7H8"}',
        r'{"a":"basic\u0009a1B2c3D4e5F6g7H8"}',
        r'{"pass\nword":"hunter22"}',
        r'{"api\u005Fkey":"hunter22"}',
        "run --MY_KEY hunter22",
        "run --DB_PASS hunter22",
        "run --token, [REDACTED:key]hunter22",
        "run --token\t, [REDACTED:key]hunter22",
        "tokentoken = a1B2c3D4e5F6g7H8",
        "secretsecret: hunter22",
        "SecretString = hunter22",
    ],
)
def test_candidates(redactor: Redactor, text: str) -> None:
    """
    What the rules take out of a text is seen in the JSON that the text stands in.
    """
    assert text != redactor.text(text)
    for value in (text, [text], {"a": text}, {text: 1}, json.dumps([text])):
        assert redactor.suspicious(line(value))


class TestLaws:
    @settings(max_examples=500)
    @given(SUSPECTS, st.sampled_from(OPTIONS))
    @example(r'{"badg\u0065":"x"}', {"keys": ["badge"]})
    @example({"my_\u212aey": "x"}, {"keys": ["my_key"]})
    @example(r'{"my_\u212Aey":"x"}', {"keys": ["my_key"]})
    @example(r'{"api\/key":"x"}', {"keys": ["api/key"]})
    def test_no_suspicion_is_certain(self, value: JSON, options: dict[str, Any]) -> None:
        """
        Where no candidate is found, there is nothing to take out, however it is written.
        """
        redactor = Redactor(**options)
        counts: dict[str, int] = {}

        assert redactor.suspicious(line(value)) or (value, {}) == (
            redactor.tree(value, counts),
            counts,
        )

    @given(JSON_VALUES)
    def test_not_suspicious_means_nothing_to_do(self, value: JSON) -> None:
        """
        Where no candidate is found, nothing would have been changed; both engines agree.
        """
        plain, fast = Redactor(engine="python"), Redactor(engine="re2")
        clean = plain.tree(value, {})

        assert clean == fast.tree(value, {})
        for redactor in (plain, fast):
            assert redactor.suspicious(line(value)) or clean == value
        assert clean == redacted(plain, value) == redacted(fast, value)

    @given(st.lists(PIECES, max_size=12).map("".join))
    @example("token=valuetoken ")
    def test_both_engines_see_the_same(self, text: str) -> None:
        """
        In texts of the pieces that secrets are made of, both engines leave the same.
        """
        counts: dict[str, int] = {}
        clean = Redactor(engine="python").text(text, counts)

        for engine in ("python", "re2"):
            assert [clean] == redacted(Redactor(engine=engine), [text])
        counts = {}
        assert clean == Redactor().text(clean, counts)
        assert {} == counts

    @given(st.sampled_from(sorted(SECRETS)), st.sampled_from(NESTINGS), AROUND, AROUND)
    def test_nothing_is_left(self, name: str, nest: Callable[[str], str], a: str, b: str) -> None:
        """
        However often a secret is put into JSON or Python's notation, nothing of it is left.
        """
        _, secret = SECRETS[name]
        (clean,) = redacted(Redactor(), [nest(f"{a} {secret} {b}")])

        assert None is leaked(clean, secret)

    @given(st.sampled_from(sorted(SECRETS)), AROUND, AROUND)
    @example("cookie", "", "\u00e9")
    def test_secret_in_odd_company(self, name: str, before: str, after: str) -> None:
        """
        Whatever stands around a secret, a candidate is found when the rules would find it.
        """
        text = before + SECRETS[name][1] + after
        plain, fast = Redactor(engine="python"), Redactor(engine="re2")

        if plain.text(text) != text:
            assert plain.suspicious(line([text]))
            assert fast.suspicious(line([text]))

    @given(JSON_VALUES)
    @example([["AKIA0000000000000000", 0]])
    @example({"AKIA0000000000000000": 0})
    def test_twice_is_once(self, value: JSON) -> None:
        """
        What was redacted is not redacted again.
        """
        redactor = Redactor()
        once = redactor.tree(value, {})
        counts: dict[str, int] = {}

        assert once == redactor.tree(once, counts)
        assert {} == counts

    @given(JSON_VALUES)
    def test_input_is_left_alone(self, value: JSON) -> None:
        """
        The caller's own objects are not changed.
        """
        before = line(value)
        Redactor().tree(value, {})

        assert before == line(value)


class TestSettings:
    def test_own_pattern(self) -> None:
        """
        A pattern of one's own is found like the others, with a group or without.
        """
        redactor = Redactor(patterns={"badge": r"B-\d{4}", "pin": r"pin (?P<v>\d+)"})

        assert redactor.suspicious(b"{}")
        assert "[REDACTED:badge], pin [REDACTED:pin]" == redactor.text("B-1234, pin 99")

    def test_own_key(self) -> None:
        """
        A name of one's own is a secret's name.
        """
        redactor = Redactor(keys=["Badge"])

        assert {"badge": "[REDACTED:key]", "b": 1} == redacted(redactor, {"badge": "x", "b": 1})
        assert not redactor.suspicious(b'{"b":1}')

    def test_own_key_in_capitals(self) -> None:
        """
        A name of one's own is found in any case, also of letters that bytes do not know.
        """
        redactor = Redactor(keys=["contrase\u00f1a"])

        assert {"CONTRASE\u00d1A": "[REDACTED:key]"} == redacted(redactor, {"CONTRASE\u00d1A": "x"})

    def test_allowed(self) -> None:
        """
        Names and values that are known to be none stay.
        """
        _, secret = SECRETS["github p"]
        redactor = Redactor(allow_keys=["Token"], allow=[secret, "changeme"])
        value = {"token": "x", "password": "changeme", "a": secret, "b": f"is {secret}"}

        assert value == redactor.tree(value, {})

    def test_keyed_hash(self) -> None:
        """
        With a key the same secret gets the same mark, and another key another one.
        """
        value = {"password": "x", "note": SECRETS["github p"][1]}
        first = Redactor(hash_key=b"the first of the two keys").tree(value, {})

        assert first == Redactor(hash_key=b"the first of the two keys").tree(value, {})
        assert first != Redactor(hash_key=b"the second of the two keys").tree(value, {})
        assert first == Redactor(hash_key=b"the first of the two keys").tree(first, {})
        assert first["password"].startswith("[HMAC:")
        assert 19 == len(first["password"])

    def test_shortest_key(self) -> None:
        """
        A key of 16 bytes is enough.
        """
        kept = Redactor(hash_key=bytes(range(4)) * 4).tree({"password": "x"}, {})

        assert kept["password"].startswith("[HMAC:")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patterns": {"mine": "("}}, "the pattern 'mine' is malformed"),
            ({"patterns": {"my own": "x"}}, "must be one word, not 'my own'"),
            ({"engine": "perl"}, "engine='perl' is unknown; use auto, re2 or python"),
            ({"patterns": {"mine": "a*"}}, "the pattern 'mine' matches the empty text"),
            ({"hash_key": b"short"}, "hash_key has 5 bytes, 5 of them different; use at least 16"),
            ({"hash_key": b"ab" * 16}, "hash_key has 32 bytes, 2 of them different"),
            ({"hash_key": b"abc" * 8}, "hash_key has 24 bytes, 3 of them different"),
            ({"hash_key": "text" * 8}, "hash_key must be bytes, not str"),
        ],
    )
    def test_malformed(self, options: dict[str, object], message: str) -> None:
        """
        A malformed rule is named.
        """
        with pytest.raises(RedactionError, match=re.escape(message)):
            Redactor(**options)  # type: ignore[arg-type]

    def test_without_re2(self, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        """
        Without the fast engine the plain one is taken, unless the fast one was asked for.
        """
        code = textwrap.dedent("""
            import sys
            sys.modules["re2"] = None
            from harken.redaction import Redactor
            print(Redactor().suspicious(b'{"password":"x"}'), Redactor().suspicious(b'{"a":"x"}'))
            try:
                Redactor(engine="re2")
            except Exception as error:
                print(error)
        """)

        assert [
            "True False",
            "engine='re2' needs google-re2; pip install google-re2",
        ] == run_python(code).stdout.splitlines()


@pytest.mark.parametrize("engine", ["re2", "python"])
@pytest.mark.parametrize(
    "piece",
    [
        *("-ey" + "J", "ey" + "Jaaaaaaaaaa.", "password=", 'password="', "://a:", "key", "bearer "),
        *(
            "-----",
            "x_",
            "cookie: a",
            "token\\",
            "=",
            "token:",
            "api.....",
            "passWord",
            "--a-token ",
        ),
        *("://a:b@@@", "authorization: basic ", "secret=a,b", "A_TOKEN=b;", '"A_TOKEN=b;'),
        *('{"token":[', "{'token':{'type':'string'},", "'value':'a',", "[['token','", '["'),
    ],
)
def test_hostile_text_costs_no_more_than_its_length(engine: str, piece: str) -> None:
    """
    Four times the text takes about four times the work, not sixteen times.
    """
    redactor = Redactor(engine=engine)  # type: ignore[arg-type]

    def cost(text: str) -> float:
        begin = time.thread_time()
        redacted(redactor, [text])
        return time.thread_time() - begin

    def ratio() -> float:
        # In turn, so that whatever else the machine does slows down both.
        small, large = (piece * (size // len(piece)) for size in (25_000, 100_000))
        pairs = [(cost(small), cost(large)) for _ in range(5)]
        return statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs)

    # Quadratic work would be sixteen; noise gets the room in between, and another chance.
    assert any(ratio() < 10 for _ in range(4))


@pytest.mark.parametrize("engine", ["re2", "python"])
@pytest.mark.parametrize(
    "pieces",
    ["-ab", ["-", "_", ".", "tok", "sec", "api"], ["ghp_", "pw", "npm_", "hf_", "a", "-"]],
    ids=str,
)
def test_noise_costs_no_more_than_other_text(engine: str, pieces: Sequence[str]) -> None:
    """
    Text in which a candidate may begin at every other letter is looked through as any text is.
    """
    redactor = Redactor(engine=engine)  # type: ignore[arg-type]
    noise = "".join(random.Random(1).choices(pieces, k=60_000))[:100_000]
    plain = ("of the letters abc " * 6_000)[: len(noise)]

    def cost(text: str) -> float:
        begin = time.thread_time()
        redactor.suspicious(line([text]))
        return time.thread_time() - begin

    def ratio() -> float:
        pairs = [(cost(noise), cost(plain)) for _ in range(5)]
        return min(a for a, _ in pairs) / min(b for _, b in pairs)

    # Where each letter is a new state for the engine, it is some hundred times as much.
    assert any(ratio() < 50 for _ in range(4))


FORKED_WHILE_OTHERS_SEARCH = """
import os, posix, signal, threading, warnings
from harken.redaction import Redactor

warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
redactor = Redactor()
done = threading.Event()

def search():
    while not done.is_set():
        # The engine holds its lock while it learns what it has not seen yet.
        redactor.suspicious(os.urandom(20_000))

threads = [threading.Thread(target=search) for _ in range(3)]
for thread in threads:
    thread.start()
ends = set()
for _ in range(120):
    pid = os.fork()
    if not pid:
        # One that waits for ever is ended by this signal; no handler in Python would run.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        redactor.suspicious(b"of the letters abc " * 300)
        # At os._exit() coverage would write all that was measured so far.
        posix._exit(0)
    ends.add(os.waitpid(pid, 0)[1])
    if ends != {0}:
        break
done.set()
print(ends)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.once
def test_forked_while_others_search(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """
    A child that was forked while other threads were looking through texts can look, too.
    """
    # A process of its own: this one has grown, and its forks take long.
    done = run_python(FORKED_WHILE_OTHERS_SEARCH)

    assert "{0}\n" == done.stdout


def test_routes() -> None:
    """
    No secret gets out through any of the routes; a share of what the script there sends.
    """
    script = Path(__file__).with_name("faults") / "secret_routes.py"
    done = subprocess.run(
        [sys.executable, str(script), "23"], capture_output=True, text=True, check=False
    )

    assert (0, "0 leaks") == (done.returncode, done.stdout.splitlines()[-1])
