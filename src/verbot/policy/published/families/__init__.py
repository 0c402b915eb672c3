"""The families of published policies. A module registers its family with `verbot.policy.published.base.families`."""
