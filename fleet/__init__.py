"""A platform's night: many concepts erased from many checkpoints, on one machine or on many.

    python -m fleet plan.yaml
    python -m fleet plan --checkpoints DIR --concepts FILE [--out plan.yaml]

A plan (:mod:`.reading`) becomes rows (:mod:`.row`); each runs in a process of its own
(:mod:`.doing`), started here or by Ray (:mod:`.executors`).
"""
