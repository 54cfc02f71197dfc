"""A fresh process that loads a saved model and prints the rewards of some texts; asked by trainer/publish.py on stdin."""

import json
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from stream.encode import Encoder
from stream.score import reference_rewards


def main() -> None:
    """Read the question from stdin, print the rewards as one JSON line."""
    asked = json.load(sys.stdin)
    model = AutoModelForSequenceClassification.from_pretrained(
        asked["directory"], dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(asked["directory"])
    encoder = Encoder(tokenizer, tuple(asked["words"]), asked["encoding"], asked["max_length"])
    # two plain chats, as transformers runs them: a pass of ours that was wrong would agree with itself
    rewards = reference_rewards(model, encoder, [ids or [] for ids in encoder.encode(asked["texts"])])
    print(json.dumps(rewards.tolist()))  # noqa: T201


if __name__ == "__main__":
    main()
