"""Dark Miner: erase a concept from a text-to-image model and hand the erasure back as a LoRA.

The method of Meng et al. (mine, verify, circumvent), in plain torch on a
:class:`~.model.interface.Denoiser`.
Nothing in this package imports a host.
"""

__version__ = "0.1.0"
