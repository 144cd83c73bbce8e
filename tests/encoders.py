"""A sentence encoder of a few thousand weights, in a folder as real ones come, and texts that it can tell apart."""

import csv
import json
import random
from pathlib import Path

import torch

TOPICS = {
    "sport": ["striker", "goal", "match", "referee"],
    "business": ["oil", "price", "market", "shares"],
    "space": ["planet", "comet", "rocket", "orbit"],
}
FILLERS = ["the", "a", "of", "and"]
WORDS = [*FILLERS, *(word for words in TOPICS.values() for word in words)]


def build_encoder(folder: Path, seed: int = 0) -> Path:
    """BERT with two layers of width 32 and random, mostly small weights.

    Every word of `WORDS` is a token, others come in pieces.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    letters = "abcdefghijklmnopqrstuvwxyz.,"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(config)
        torch.nn.init.normal_(model.embeddings.word_embeddings.weight, std=1.0)
        torch.nn.init.zeros_(model.embeddings.position_embeddings.weight)
        for layer in model.encoder.layer:  # near a bag of words, so that the word that decides is known
            layer.attention.output.dense.weight.data *= 0.1
            layer.output.dense.weight.data *= 0.1
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Normalize"}]))
    return folder


def sentence(topic: str, rng: random.Random, own: int = 2) -> str:
    """Some words of the topic among fillers."""
    words = rng.sample(TOPICS.get(topic, []), own) + rng.choices(FILLERS, k=4)
    rng.shuffle(words)
    return " ".join(words)


def write_table(file: Path, each: int = 20, text: str = "text", task: bool = False) -> Path:
    """A table of texts, classes by turns."""
    rng = random.Random(0)
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["label", text, *(["task"] if task else [])])
        for i in range(each):
            for topic in TOPICS:
                rows.writerow([topic, sentence(topic, rng), *([f"part{i % 2}"] if task else [])])
    return file
