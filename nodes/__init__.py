"""The pack's nodes. Import this inside the host only."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from ..darkminer.libraries import broken
from .attack import AttackErasure
from .bank import DarkMinerVocabularyBank
from .chase import DarkMinerChase
from .checks import guard
from .circumvent import CircumventLoRA
from .combine import CombineErasures
from .concepts import EraseConcepts
from .contexts import DarkMinerConceptContexts
from .demo_models import DarkMinerDemoModels
from .image_pool import ImagePoolBuilder
from .loop import DarkMinerLoop
from .mine import MineEmbedding
from .rounds import DarkMinerRoundClose, DarkMinerRoundOpen
from .save_lora import SaveErasureLoRA
from .verify import VerifyDeltaCLIP

log = logging.getLogger(__name__)

NODES: list[type[io.ComfyNode]] = [
    ImagePoolBuilder,
    DarkMinerConceptContexts,
    DarkMinerVocabularyBank,
    MineEmbedding,
    VerifyDeltaCLIP,
    AttackErasure,
    CircumventLoRA,
    DarkMinerChase,
    DarkMinerRoundOpen,
    DarkMinerRoundClose,
    DarkMinerLoop,
    EraseConcepts,
    CombineErasures,
    SaveErasureLoRA,
    DarkMinerDemoModels,
]


for node in NODES:
    guard(node)


class DarkMinerExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        for sentence in broken():
            log.warning("Dark Miner: %s", sentence)
        return NODES
