"""The gallery's words: a byte-level BPE vocabulary in the format of CLIP's tokenizer.

    python -m demo.tokenizer      (writes vocab.json, merges.txt, tokenizer_config.json)

Every word of the captions is one token, so a concept word has one embedding, as "cat" has in
CLIP; any other text falls apart into letters and stays encodable.
"""

import json
from pathlib import Path

from .gallery import OBJECTS, STYLES

TEMPLATE = tuple("a of drawing the in by style photo picture image sketch".split())
FILLERS = tuple(
    "nice big small old new bright pretty simple cute little great fine good lovely plain funny "
    "happy".split()
)
OTHERS = tuple("red blue green and with on my one icon art".split())
# The order decides the token numbers: append only, or the text model must be trained again.
WORDS = tuple(dict.fromkeys((*TEMPLATE, *FILLERS, *OTHERS, *STYLES, *OBJECTS)))

MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
FOLDER = Path(__file__).with_name("tokenizer")

Pair = tuple[str, str]


def byte_letters() -> list[str]:
    """One printable letter for each of the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def split(word: str, merges: dict[Pair, int]) -> list[str]:
    """The pieces of a word under the merges learnt so far, earliest merge first."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = [p for p in zip(pieces, pieces[1:], strict=False) if p in merges]
        if not pairs:
            return pieces
        best = min(pairs, key=merges.__getitem__)
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == best:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined


def learn_merges(words: tuple[str, ...] = WORDS) -> dict[Pair, int]:
    """Merges, in order, that make each word one piece."""
    merges: dict[Pair, int] = {}
    for word in words:
        while len(pieces := split(word, merges)) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
    return merges


def vocabulary(merges: dict[Pair, int]) -> list[str]:
    """All tokens by number: letters, letters at a word's end, merges, start, end."""
    letters = byte_letters()
    tokens = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), START, END]
    if len(set(tokens)) != len(tokens):
        raise ValueError("two merges make the same token")
    return tokens


def write(folder: Path = FOLDER) -> int:
    """Writes the three files of the tokenizer; returns the number of tokens."""
    merges = learn_merges()
    tokens = vocabulary(merges)
    config = {
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "model_max_length": MAX_LENGTH,
        "do_lower_case": True,
        "tokenizer_class": "CLIPTokenizer",
    }
    folder.mkdir(parents=True, exist_ok=True)
    numbered = json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False)
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "vocab.json").write_text(numbered, encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(tokens)


if __name__ == "__main__":
    print(f"{write()} tokens")
