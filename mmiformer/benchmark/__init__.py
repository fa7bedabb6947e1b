"""What networks cost, how fast they are, and pictures of that."""
