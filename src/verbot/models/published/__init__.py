"""Networks of published policies, in verbot's own code, with what they need to be filled from the files of a checkpoint."""
