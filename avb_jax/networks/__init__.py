"""Flax (linen) modules: encoders, decoders, critics."""
