"""What judges an erasure. Nothing in the method may import it."""
