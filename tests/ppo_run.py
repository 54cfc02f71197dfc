"""Trains a tiny policy with TRL's PPO on a reward model's directory; run as a process of its own, with a TRL on its path that has PPO.

Arguments: policy directory, reward model directory, prompts as JSON lines, output directory. Prints the mean reward of each update.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer


def main(policy: str, reward: str, prompts: str, out: str) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    asked = [json.loads(line) for line in Path(prompts).read_text().splitlines()]
    rows = [{"input_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"]} for prompt in asked]
    config = PPOConfig(
        output_dir=out, use_cpu=True, bf16=False, report_to="none", save_strategy="no", num_sample_generations=0, response_length=3,
        per_device_train_batch_size=32, num_ppo_epochs=4, num_mini_batches=1, total_episodes=32 * 24, learning_rate=3e-3, kl_coef=0.0,
        gradient_checkpointing=False, logging_steps=1, seed=1, temperature=1.0, dataloader_pin_memory=False, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
        reward_model=AutoModelForSequenceClassification.from_pretrained(reward, dtype=torch.float32),
        value_model=AutoModelForSequenceClassification.from_pretrained(reward, dtype=torch.float32),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:4]),
    )
    trainer.train()
    print(json.dumps([each["objective/scores"] for each in trainer.state.log_history if "objective/scores" in each]))


if __name__ == "__main__":
    main(*sys.argv[1:])
