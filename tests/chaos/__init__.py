"""A run that is killed again and again, its files damaged in between, against one that was left in peace."""
