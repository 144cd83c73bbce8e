"""A language model of Korean by the same path as English: tokenizer, token file, training, text.

    python benchmarks/korean.py OUT --korean FILE_OR_FOLDER --english FILE [--steps 300] [--vocab 4096] [--prompt TEXT]

The Korean text is any UTF-8 file, or a folder of HTML pages, of which the lines with Korean in them are taken, such as
LibreOffice's help (Debian's libreoffice-help-ko, MPL-2.0):

    apt-get download libreoffice-help-ko && dpkg-deb -x libreoffice-help-ko_*.deb help

Each language gets a byte-pair tokenizer of its own and a model of the same shape; nine tenths of the text are learned,
the rest validates. Losses are told in bits a byte as well, which do not depend on the tokenizer. Bytes a token of both
texts under both tokenizers. Writes OUT/korean.json; a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path

from everlearn.bench.tables import machine
from everlearn.scaling.data import Tokens, token_file
from everlearn.scaling.pretrain import finished, generate, pretrain
from everlearn.scaling.settings import Settings
from everlearn.scaling.tokenizer import open_tokenizer, read_text

MODEL = {"layers": 4, "hidden": 192, "heads": 6, "ffn": 512, "seq_len": 128, "tied": True}
_KOREAN = re.compile("[가-힣]")
_BLOCKS = {"p", "div", "li", "h1", "h2", "h3", "h4", "td", "tr", "dd", "dt", "br"}


class Lines(HTMLParser):
    """The text of a page, a line for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.held, self.outside = [], [], 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.outside += tag in ("script", "style", "head")
        if tag in _BLOCKS:
            self.close_line()

    def handle_endtag(self, tag: str) -> None:
        self.outside -= tag in ("script", "style", "head")
        if tag in _BLOCKS:
            self.close_line()

    def handle_data(self, data: str) -> None:
        if self.outside <= 0:
            self.held.append(data)

    def close_line(self) -> None:
        line, self.held = " ".join("".join(self.held).split()), []
        if line:
            self.lines.append(line)


def korean_lines(folder: Path) -> str:
    """Lines of all pages that are Korean for a third at least, each once."""
    found: dict[str, None] = {}
    for page in sorted(folder.rglob("*.html")):
        parser = Lines()
        parser.feed(page.read_text(encoding="utf-8"))
        parser.close_line()
        found |= dict.fromkeys(line for line in parser.lines if 3 * len(_KOREAN.findall(line)) >= max(30, len(line)))
    return "\n".join(found) + "\n"


def parted(name: str, source: Path, out: Path) -> tuple[Path, Path]:
    """Nine tenths to learn and one to validate, as files."""
    whole = korean_lines(source) if source.is_dir() else "".join(read_text(source))
    cut = whole.rindex("\n", 0, int(0.9 * len(whole))) + 1
    files = out / f"{name}-train.txt", out / f"{name}-valid.txt"
    for file, text in zip(files, (whole[:cut], whole[cut:])):
        file.write_text(text, encoding="utf-8")
    return files


def learn(name: str, train: Path, valid: Path, args: argparse.Namespace) -> dict[str, object]:
    settings = Settings.of({
        "model": MODEL,
        "data": {"train": [str(train)], "valid": [str(valid)], "tokenizer": f"bpe:{args.vocab}"},
        "train": {"steps": args.steps, "global_batch": 8, "evaluate_every": max(1, args.steps // 6)},
        "optimiser": {"lr": 2e-3}, "schedule": {"warmup": 20, "decay": args.steps // 3},
        "layout": {"micro_batch": 8}, "seed": args.seed,
    })  # fmt: skip
    run, begun = args.out / name, time.process_time()
    loss = pretrain(settings, run)
    held = Tokens(token_file(valid, run))
    bits = loss / math.log(2) * len(held) / valid.stat().st_size
    return {"loss": round(loss, 4), "bits_per_byte": round(bits, 4), "bytes": train.stat().st_size,
            "tokens": len(Tokens(token_file(train, run))), "seconds": round(time.process_time() - begun)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--korean", type=Path, required=True)
    parser.add_argument("--english", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", default="문서를 저장하려면")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files = {name: parted(name, getattr(args, name), args.out) for name in ("korean", "english")}
    found: dict[str, object] = {"steps": args.steps, "vocab": args.vocab, "seed": args.seed, "machine": machine()}
    print("| text | bytes learned | tokens | loss, nats a token | bits a byte | seconds |\n|---|---|---|---|---|---|")
    for name, (train, valid) in files.items():
        found[name] = row = learn(name, train, valid, args)
        print(f"| {name} | {row['bytes']:,} | {row['tokens']:,} | {row['loss']:.3f} | {row['bits_per_byte']:.3f} "
              f"| {row['seconds']} |", flush=True)  # fmt: skip
    tokenizers = {name: open_tokenizer(str(args.out / name / "tokenizer.json"), []) for name in files}
    print("\n| bytes a token | Korean text | English text |\n|---|---|---|")
    for name, tokenizer in tokenizers.items():
        texts = [valid.read_text(encoding="utf-8") for _, valid in files.values()]
        each = [len(text.encode()) / len(tokenizer.encode(text)) for text in texts]
        found[f"bytes_per_token_{name}_tokenizer"] = dict(zip(files, (round(x, 3) for x in each)))
        print(f"| {name} tokenizer | {each[0]:.2f} | {each[1]:.2f} |")
    model, tokenizer, _ = finished(args.out / "korean")
    found["text"] = tokenizer.decode(generate(model, tokenizer.encode(args.prompt), 60, seed=args.seed))
    print(f"\n{found['text']}\n{found['machine']}")
    (args.out / "korean.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
