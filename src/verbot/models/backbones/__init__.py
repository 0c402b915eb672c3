"""Backbones: a batch to features. One file each; see `verbot.models.features.Backbone` for the contract."""
