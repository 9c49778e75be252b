"""What can be seen of a game: sampled transitions and episodes, and statistics of them."""
