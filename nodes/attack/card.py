"""SaveReportCard: what a red team found, as a page, a picture and a record."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ...darkminer.card.card import Card, card_of
from ...darkminer.card.page import as_page
from ...darkminer.card.record import as_json
from ...darkminer.files.atomic import write_whole
from ...darkminer.files.names import CONCEPT, checked_prefix, file_stem
from .. import sockets
from ..checks import accepted
from ..fields import named
from ..host.run import below_output, output_file, save_picture, say
from .card_picture import card_picture

NODE = "SaveReportCard"


class SaveReportCard(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=NODE,
            display_name="Save Report Card",
            category="DarkMiner",
            search_aliases=["report", "red team", "evaluate erasure"],
            description="Writes what Red Team found as one HTML page, a picture and a JSON file, "
            "with intervals, protocol and what the figures do not say.",
            is_output_node=True,
            inputs=[
                sockets.RedTeam.Input("after", tooltip="The findings on the erased model."),
                io.String.Input(
                    "filename_prefix", default="report/card_%concept%",
                    tooltip="Below the output folder. %concept% stands for the concept, in letters "
                    "that file names may hold.",
                ),
                io.Int.Input(
                    "pictures", default=4, min=0, max=64,
                    tooltip="How many pictures of each attack are shown; 0: none, where nobody "
                    "should have to see them.",
                ),
                sockets.RedTeam.Input(
                    "before", optional=True,
                    tooltip="The findings on the model before its erasure: of an attack that does "
                    "not win there, a failure says nothing.",
                ),
                sockets.RedTeam.Input(
                    "control", optional=True,
                    tooltip="The findings on a model that never saw the concept: only what an "
                    "attack gets beyond them was left behind by the erasure.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="page", tooltip="The HTML file that was written."),
                io.Image.Output(display_name="card", tooltip="The card as a picture."),
                io.String.Output(display_name="record", tooltip="The JSON file's text."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return accepted(cls, {}, lambda: filename_prefix is None or checked_prefix(filename_prefix))

    @classmethod
    def execute(cls, after, filename_prefix, pictures, before=None, control=None):
        with named(NODE):
            prefix = checked_prefix(filename_prefix)
            card = card_of(after, before, control, pictures)
            path = output_file(prefix.replace(CONCEPT, file_stem(card.concept)), ".html")
            picture = write_card(card, path)
        shown = below_output(path)
        say(f"{card.verdict}; saved as {shown}")
        return io.NodeOutput(str(path), picture, as_json(card), ui={"text": [shown]})


def write_card(card: Card, page: Path):
    """Write the page, and beside it picture and record of the same name.

    Returns:
        the picture ``[1, H, W, 3]``.
    """
    picture = card_picture(card)
    write_whole(page, [as_page(card).encode()])
    write_whole(page.with_suffix(".json"), [as_json(card).encode()])
    save_picture(page.with_suffix(".png"), picture)
    return picture
