"""
Credentials given to agents, and who proved to be whom. Never the secret itself.
"""

from harken.catalog._fields import Actor, Seconds, Time
from harken.event import Event


class CredentialIssued(
    Event,
    name="credential.issued",
    audit=True,
    action="issue",
    resource="credential:{scope}",
    outcome="success",
):
    """
    An agent was given a credential.

    Attributes:
        credential_id: The broker's id of it; never the secret.

        scope: What it allows.

        integration: The system it opens.

        expires_at: Timezone-aware.

        issued_to: Who got it, as ``kind:id``.
    """

    credential_id: str
    scope: str
    integration: str | None = None
    ttl_s: Seconds = 0
    expires_at: Time | None = None
    issued_to: Actor = ""


class CredentialDenied(
    Event,
    name="credential.denied",
    audit=True,
    action="issue",
    resource="credential:{scope}",
    outcome="denied",
):
    """
    An agent asked for a credential that it may not have.

    Attributes:
        scope: What it asked for.
    """

    scope: str
    integration: str | None = None
    reason: str = ""


class CredentialRevoked(
    Event,
    name="credential.revoked",
    audit=True,
    action="revoke",
    resource="credential:{credential_id}",
    outcome="success",
):
    """
    A credential no longer works; an expiry that was known from the start needs no event.
    """

    credential_id: str
    reason: str = ""


class AuthSucceeded(
    Event,
    name="auth.succeeded",
    audit=True,
    action="authenticate",
    resource="auth:{method}",
    outcome="success",
):
    """
    Somebody proved who they are.

    Attributes:
        method: Such as ``oidc``, ``api_key`` or ``mtls``.

        principal: Who, as ``kind:id``.
    """

    method: str
    principal: Actor = ""


class AuthFailed(
    Event,
    name="auth.failed",
    audit=True,
    action="authenticate",
    resource="auth:{method}",
    outcome="failure",
):
    """
    Somebody did not prove who they are.

    Attributes:
        method: Such as ``oidc``, ``api_key`` or ``mtls``.

        principal: Who they claimed to be, as ``kind:id``.
    """

    method: str
    principal: Actor | None = None
    reason: str = ""
