"""The networks of this package and their peers by name: configs, weights, metafiles."""
