"""Objectives: what a network is trained for. One file each; see `verbot.models.features.TrainingObjective` for the contract."""
