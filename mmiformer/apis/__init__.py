"""From a config or a name to a model and its predictions."""
