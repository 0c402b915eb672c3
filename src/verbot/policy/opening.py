"""A policy by name, of either kind: a network, which needs torch, or exported graphs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from verbot.policy.runtime import RuntimePolicy, is_exported
from verbot.policy.storage import policy_folder

if TYPE_CHECKING:
    from verbot.policy.policy import VLAPolicy


def load_policy(path: str | os.PathLike[str]) -> VLAPolicy | RuntimePolicy:
    """Load a policy from a directory and verify it; ``"starter"`` is the policy that ships with verbot.

    A folder of `verbot optimize` gives a `verbot.policy.runtime.RuntimePolicy`, for which torch need not be installed; any other
    a `verbot.policy.policy.VLAPolicy`.

    Raises:
        PolicyError: the directory is incomplete, or is not a policy's.
        CorruptFileError: a file has changed since it was saved.
        MissingDependencyError: the policy needs a package that is not installed.

    Example:
        >>> import tempfile, verbot
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     policy = load_policy(verbot.train("tiny", out=folder, steps=1, progress=False).policy)
        >>> policy.spec.camera_names, policy.config.chunk
        (('front', 'wrist'), 4)
    """
    if is_exported(policy_folder(path)):
        return RuntimePolicy.load(path)
    from verbot.policy.policy import VLAPolicy

    return VLAPolicy.load(path)
