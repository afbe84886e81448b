"""Dark Miner: erase a concept from the loaded text-to-image model, and keep it as a LoRA.

A ComfyUI custom node pack. Nothing of the host is imported until it asks for the nodes, so that
the method in ``darkminer/`` can be used and tested without one.
"""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    """The host's way in."""
    from .nodes import DarkMinerExtension

    return DarkMinerExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
