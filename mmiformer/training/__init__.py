"""What a long run needs beside mmengine's loop: going on after a stop, stopping at nonsense, a record."""

from mmiformer.training import randomness as _randomness  # noqa: F401  Registers sampler, transform and hook.
