"""
What agents read and change: resources, configuration, sandboxes and checkpoints.
"""

from typing import Annotated

from harken.catalog._fields import Actor, Digest, Milliseconds, known
from harken.event import JSON, Event


class ResourceAccessed(
    Event,
    name="resource.accessed",
    action="access",
    resource="resource:{resource_id}",
    outcome="success",
):
    """
    The agent read a file, a page, a table or anything else that has a name.

    Attributes:
        kind: What it is, such as ``file`` or ``url``.

        access: ``read``.
    """

    resource_id: str
    kind: str = ""
    access: Annotated[str, known("read")] = "read"


class ResourceModified(
    Event,
    name="resource.modified",
    audit=True,
    action="modify",
    resource="resource:{resource_id}",
    outcome="success",
):
    """
    The agent created, changed or deleted something that has a name.

    Attributes:
        kind: What it is, such as ``file`` or ``record``.

        modification: ``create``, ``update`` or ``delete``.

        tool_call_id: The tool call that did it.

        sandboxed: Whether the change is still inside a sandbox.
    """

    resource_id: str
    kind: str = ""
    modification: Annotated[str, known("create", "update", "delete")] = ""
    tool_call_id: str | None = None
    sandboxed: bool = False
    digest_before: Digest | None = None
    digest_after: Digest | None = None


class ResourceIndexed(
    Event,
    name="resource.indexed",
    action="index",
    resource="resource:{resource_id}",
    outcome="success",
):
    """
    A resource was made searchable.

    Attributes:
        documents: How many entries of the index it became.
    """

    resource_id: str
    documents: int = 0
    duration_ms: Milliseconds | None = None


class EntityDeleted(
    Event,
    name="entity.deleted",
    audit=True,
    action="delete",
    resource="{entity_type}:{entity_id}",
    outcome="success",
):
    """
    Something that the framework itself keeps was deleted, such as a project or a session.
    """

    entity_type: str
    entity_id: str


class ConfigChanged(
    Event,
    name="config.changed",
    audit=True,
    action="change",
    resource="config:{key}",
    outcome="success",
):
    """
    A setting of the agent or of its framework was changed.

    Attributes:
        key: The setting's name.

        old:
            Its value before. Mask a secret yourself: redaction knows it by its form only, since
            the setting's name stands in another field.

        new: Its value now; mask it likewise.

        scope: For whom it was changed, such as ``project`` or ``user``.
    """

    key: str
    old: JSON = None
    new: JSON = None
    scope: str = ""


class SandboxCreated(
    Event,
    name="sandbox.created",
    action="create",
    resource="sandbox:{sandbox_id}",
    outcome="success",
):
    """
    A place was made in which the agent's changes have no effect outside.

    Attributes:
        kind: Such as ``worktree``, ``container`` or ``overlay``.
    """

    sandbox_id: str
    kind: str = ""
    duration_ms: Milliseconds | None = None


class SandboxCommitted(
    Event,
    name="sandbox.committed",
    audit=True,
    action="commit",
    resource="sandbox:{sandbox_id}",
    outcome="success",
):
    """
    The changes made in a sandbox became real.
    """

    sandbox_id: str
    files_changed: int = 0
    duration_ms: Milliseconds | None = None


class SandboxRolledBack(
    Event,
    name="sandbox.rolled_back",
    audit=True,
    action="roll_back",
    resource="sandbox:{sandbox_id}",
    outcome="success",
):
    """
    The changes made in a sandbox were thrown away.
    """

    sandbox_id: str
    reason: str = ""
    duration_ms: Milliseconds | None = None


class CheckpointCreated(
    Event,
    name="checkpoint.created",
    action="create",
    resource="checkpoint:{checkpoint_id}",
    outcome="success",
):
    """
    The state of a run was saved, so that it can go on from there.

    Attributes:
        parent_id: The checkpoint before it.

        trigger: Why it was saved, such as ``step``, ``interrupt`` or ``manual``.
    """

    checkpoint_id: str
    parent_id: str | None = None
    trigger: str = ""


class CheckpointRestored(
    Event,
    name="checkpoint.restored",
    audit=True,
    action="restore",
    resource="checkpoint:{checkpoint_id}",
    outcome="success",
):
    """
    A run was set back to a saved state; what it did since has happened all the same.

    Attributes:
        restored_by: Who set it back, as ``kind:id``.
    """

    checkpoint_id: str
    restored_by: Actor | None = None
