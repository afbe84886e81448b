"""The report of an erasure: what lies beside its LoRA for a person, and for a program."""
