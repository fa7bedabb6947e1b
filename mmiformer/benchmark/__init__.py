"""Cost and speed of networks, and plots of them."""
