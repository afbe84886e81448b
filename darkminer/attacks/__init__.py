"""Attacks: what judges an erasure. Nothing in the method may import them."""
