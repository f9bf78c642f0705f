"""
What the known kinds of secrets look like.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """
    One kind of secret.

    Attributes:
        kind: What the marker calls it.

        literals: Lower-case pieces, one of which is in every such secret.

        pattern:
            Finds it in a text; the group ``v``, if there is one, is what is taken out. It begins
            at few places and never gives back what it took, so that its cost is linear.

        candidate:
            Finds in the JSON of a text whatever *pattern* finds in the text, and maybe more. It
            has no look-around, which RE2 does not know, and no word boundaries, because in JSON
            the letter of an escape (``\\n``) may stand before a word.
    """

    kind: str
    literals: tuple[str, ...]
    pattern: str
    candidate: str


def _begin(literal: str) -> str:
    """
    Return the pattern of *literal* where a token may begin: also behind an underscore.

    The look behind stands after the letters, so that they are what Python searches for.
    """
    return rf"{literal}(?<![A-Za-z0-9]{literal})"


_URL_USER = r"(?:\[(?:REDACTED:\w{1,64}|HMAC:[0-9a-f]{12})\]|[^\s/:@'\"<>])*+"

# Published forms of tokens: the documentation of the services, and gitleaks' rules. The ends are
# open, so that of a token longer than usual nothing is left.
RULES: tuple[Rule, ...] = (
    Rule(
        "private_key",
        ("private key",),
        r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[^-]|-(?!----END))*+(?:-----END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
        r"-----(?:BEGIN|END)[ A-Z0-9]{0,40}PRIVATE KEY",
    ),
    # Of one whose beginning was cut off, what is left before its end.
    Rule(
        "private_key",
        ("private key-----", "private key block-----"),
        r"(?<![A-Za-z0-9+/=\\\s])[A-Za-z0-9+/=\\\s]++"
        r"-----END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----",
        r"-----END[ A-Z0-9]{0,40}PRIVATE KEY",
    ),
    # Signed, where what is glued to its front goes, too; and encrypted, in five parts.
    Rule(
        "jwt",
        ("eyj",),
        r"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]{13,}+\.eyJ[A-Za-z0-9_-]{10,}+"
        r"(?:\.[A-Za-z0-9_-]++){0,3}+|eyJ[A-Za-z0-9_-]{10,}+(?:\.[A-Za-z0-9_-]*+){4})",
        r"eyJ[A-Za-z0-9_-]{10}",
    ),
    Rule(
        "aws_access_key",
        ("akia", "asia", "abia", "acca"),
        r"A(?<![A-Za-z0-9]A)(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16,}+",
        r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}",
    ),
    Rule(
        "github_token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        rf"{_begin('gh')}[pousr]_\w{{36,}}+",
        r"gh[pousr]_[A-Za-z0-9_]{12}",
    ),
    Rule(
        "github_pat",
        ("github_pat_",),
        rf"{_begin('github_pat_')}\w{{40,}}+",
        r"github_pat_",
    ),
    Rule("gitlab_pat", ("glpat-",), rf"{_begin('glpat-')}[\w.-]{{20,}}+", r"glpat-"),
    Rule(
        "slack_token",
        ("xox",),
        rf"{_begin('xox')}[abcdeoprs](?:-[A-Za-z0-9%+/=]++){{2,}}+",
        r"xox[abcdeoprs]-[A-Za-z0-9%+/=]",
    ),
    Rule(
        "slack_app",
        ("xapp-",),
        rf"{_begin('xapp-')}\d-[A-Z0-9]{{1,32}}-\d{{1,20}}-[A-Za-z0-9]++",
        r"xapp-",
    ),
    Rule(
        "slack_webhook",
        ("hooks.slack.com",),
        r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<v>[A-Za-z0-9+/_-]{20,}+)",
        r"hooks\.slack\.com/",
    ),
    Rule(
        "openai",
        ("t3blbkfj", "sk-proj-", "sk-svcacct-", "sk-admin-"),
        rf"{_begin('sk-')}(?:[A-Za-z0-9_-]{{20,200}}?T3BlbkFJ[A-Za-z0-9_-]{{20,}}+"
        r"|(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,}+)",
        r"T3BlbkFJ|sk-(?:proj|svcacct|admin)-",
    ),
    Rule("anthropic", ("sk-ant-",), rf"{_begin('sk-ant-')}[\w-]{{20,}}+", r"sk-ant-"),
    Rule("gcp_api_key", ("aiza",), rf"{_begin('AIza')}[\w-]{{35,}}+", r"AIza"),
    Rule(
        "stripe",
        ("k_live_", "k_test_"),
        r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{10,}+",
        r"[rs]k_(?:live|test)_",
    ),
    Rule("npm", ("npm_",), rf"{_begin('npm_')}[A-Za-z0-9]{{36,}}+", r"npm_[A-Za-z0-9]{36}"),
    Rule(
        "pypi",
        ("pypi-ageichl",),
        rf"{_begin('pypi-')}AgEIcHlwaS5vcmc[\w-]{{50,}}+",
        r"pypi-AgEIcHl",
    ),
    Rule("sendgrid", ("sg.",), rf"{_begin('SG')}\.[\w-]{{16,}}+\.[\w-]{{16,}}+", r"SG\."),
    Rule("huggingface", ("hf_",), rf"{_begin('hf_')}[A-Za-z0-9]{{34,}}+", r"hf_[A-Za-z0-9]{34}"),
    Rule("twilio", ("sk",), rf"{_begin('SK')}[0-9a-f]{{32}}(?![A-Za-z0-9])", r"SK[0-9a-f]{32}"),
    Rule(
        "azure_storage",
        ("accountkey=",),
        r"AccountKey=(?P<v>[A-Za-z0-9+/=]{60,}+)",
        r"AccountKey=",
    ),
    Rule("azure_sas", ("sig=",), r"[?&]sig=(?P<v>[\w%+/=-]{40,}+)", r"[?&]sig="),
    Rule("digitalocean", ("dop_v1_",), rf"{_begin('dop_v1_')}[a-f0-9]{{64,}}+", r"dop_v1_"),
    Rule("vault", ("hvs.",), rf"{_begin('hvs')}\.[\w-]{{24,}}+", r"hvs\."),
    Rule("telegram", (":aa",), r"(?<!\d)\d{8,10}:AA[\w-]{33,}+", r"[0-9]{8}:AA"),
    # A password may hold what should have been escaped, up to the last @ before the path; a port
    # in its place, as in https://host:80?mail=a@b, is none.
    Rule(
        "url_credentials",
        ("://",),
        rf"://{_URL_USER}:(?!\d{{1,5}}[?#,;])(?P<v>(?!\[REDACTED:|\[HMAC:)[^\s/'\"<>]+)@",
        r"://[^\s/\"]*@",
    ),
    Rule(
        "url_credentials",
        ("://",),
        r"://(?P<v>(?=[A-Za-z_.~%-]{0,200}[0-9])[\w.~%-]{20,}+)@",
        r"://[\w.~%-]*@",
    ),
    Rule(
        "auth_header",
        ("authorization",),
        r"(?i:authorization)(?:\\{0,31}[\"'])?\s{0,3}[:=]\s{0,3}(?:\\{0,31}[\"'])?"
        r"(?i:bearer|basic|token|negotiate|apikey|ntlm)[ \t]{1,4}"
        r"(?P<v>(?![$<*\[{(%])[^\s\"',;\\]++)",
        r"(?i:authorization)",
    ),
    Rule(
        "auth_header",
        ("authorization",),
        r"(?i:authorization)(?:\\{0,31}[\"'])?\s{0,3}[:=]\s{0,3}(?:\\{0,31}[\"'])?"
        r"(?i:digest|hawk|hmac|oauth|signature|aws4-[a-z0-9-]{1,30})[ \t]{1,4}"
        r"(?P<v>(?![$<*\[{(%])[^\r\n]++)",
        r"(?i:authorization)",
    ),
    Rule(
        "auth_header",
        ("bearer", "basic"),
        r"(?i:\b(?:bearer|basic))[ \t]{1,4}"
        r"(?P<v>(?=[A-Za-z0-9+/_.~=-]{0,60}[0-9+/_=])[A-Za-z0-9+/_.~-]{16,}+={0,2})",
        r"(?i:bearer|basic)[ \\]",
    ),
    Rule(
        "cookie",
        ("cookie:",),
        r"(?i:\b(?:set-)?cookie:) {0,3}(?P<v>[^\s;=\[]{1,160}=[^\r\n]++)",
        r"(?i:cookie:)",
    ),
)

COMPILED = tuple((rule.kind, rule.literals, re.compile(rule.pattern, re.ASCII)) for rule in RULES)
