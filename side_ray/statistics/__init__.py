"""What the values are worth."""
