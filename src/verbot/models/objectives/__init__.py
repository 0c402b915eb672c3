"""Training objectives, one file each. Their interface is `verbot.models.features.TrainingObjective`."""
