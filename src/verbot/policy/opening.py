"""A policy by name: a network of verbot, which needs torch, exported graphs, or the files of a published policy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from verbot.policy.runtime import RuntimePolicy, is_exported
from verbot.policy.storage import policy_folder

if TYPE_CHECKING:
    from verbot.policy.policy import VLAPolicy
    from verbot.policy.published.policy import PublishedPolicy

PUBLISHED = "hf:"


def load_policy(path: str | os.PathLike[str]) -> VLAPolicy | RuntimePolicy | PublishedPolicy:
    """Load a policy from a directory and verify it; ``"starter"`` is the policy that ships with verbot.

    A folder of `verbot optimize` gives a `verbot.policy.runtime.RuntimePolicy`, for which torch need not be installed; any other
    a `verbot.policy.policy.VLAPolicy`. ``"hf:FOLDER"`` and ``"hf:OWNER/NAME"`` are policies that others published, such as π0 or
    OpenVLA (`verbot.policy.published`), which give a `verbot.policy.published.policy.PublishedPolicy`.

    Raises:
        PolicyError: the directory is incomplete, or is not a policy's; or of no known family of published policies.
        CorruptFileError: a file has changed since it was saved, or holds other weights than its network has.
        MissingDependencyError: the policy needs a package that is not installed.

    Example:
        >>> import tempfile, verbot
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     policy = load_policy(verbot.train("tiny", out=folder, steps=1, progress=False).policy)
        >>> policy.spec.camera_names, policy.config.chunk
        (('front', 'wrist'), 4)
    """
    if os.fspath(path).startswith(PUBLISHED):
        from verbot.policy.published.opening import open_published

        return open_published(path)
    if is_exported(policy_folder(path)):
        return RuntimePolicy.load(path)
    from verbot.policy.policy import VLAPolicy

    return VLAPolicy.load(path)
