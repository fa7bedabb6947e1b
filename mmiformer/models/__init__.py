"""Networks: backbones, the layers they share, and heads."""
