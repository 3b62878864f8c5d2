"""How close generated images come to training images: similarities, exact search, scores and what they are worth."""
