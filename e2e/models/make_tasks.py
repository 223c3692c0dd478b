"""Make the data of `tasks` from `evaluation.txt`: beginnings of paragraphs, each with four endings.

    python e2e/models/make_tasks.py

The true ending is in a place that chance chooses; the others end other paragraphs.
"""

import json
import random
import re
from pathlib import Path

MODELS = Path(__file__).resolve().parent
DOCUMENTS = 100
BEGINNING, ENDING = 24, 8
"""Words."""
CHOICES = 4


def main() -> None:
    """Write the file anew."""
    paragraphs = re.split(r"\n\s*\n", (MODELS / "evaluation.txt").read_text("utf-8"))
    texts = [words for words in map(str.split, paragraphs) if len(words) >= BEGINNING + ENDING]
    chosen = texts[:: len(texts) // DOCUMENTS][:DOCUMENTS]
    endings = [" ".join(words[BEGINNING : BEGINNING + ENDING]) for words in chosen]
    chance = random.Random(1)
    with (MODELS / "tasks" / "endings.jsonl").open("w", encoding="utf-8") as file:
        for words, ending in zip(chosen, endings, strict=True):
            others = chance.sample([each for each in endings if each != ending], CHOICES - 1)
            answer = chance.randrange(CHOICES)
            document = {
                "beginning": " ".join(words[:BEGINNING]),
                "endings": [*others[:answer], ending, *others[answer:]],
                "answer": answer,
                "word": words[BEGINNING],
            }
            file.write(json.dumps(document, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
