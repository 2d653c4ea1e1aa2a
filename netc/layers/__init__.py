"""The layer types, one file per family. `netc.layers.registry` finds them by name."""
