"""`llmsup build`: source, tools, recipe, compilation, and what was published for others to find."""
