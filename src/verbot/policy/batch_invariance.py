"""Predictions that do not depend on what else is in the batch, so that an evaluation can be resumed to the bit."""

from __future__ import annotations

import copy

from verbot.policy.policy import VLAPolicy


def batch_invariant(policy: VLAPolicy) -> VLAPolicy:
    """A copy, with the same weights, whose predictions depend on no other observation of a batch, to the bit.

    Rounding depends on the shape of a batch: on the number of observations, which a caller can keep (`VectorRunner` does), and on
    the longest instruction. The copy pads all instructions to one length (`verbot.models.tokens.TextBatch.equally_long`), by
    which its numbers may differ from those of `policy` in the last bits. Exceptions are an instruction of more than 64 tokens in
    the batch, and language encoders that do not know how long instructions may be, such as ``hierarchical``.
    """
    made = copy.copy(policy)
    made.equal_texts = True
    return made
