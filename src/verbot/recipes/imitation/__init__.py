"""One recipe, or one family of recipes, per file."""
