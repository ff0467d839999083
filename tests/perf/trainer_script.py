"""What one would write instead: LoRA by transformers' Trainer and peft, on rows read by datasets, scored on others.

``python trainer_script.py BACKBONE TRAIN.csv TEST.csv STEPS SEED`` prints the accuracy, and the CPU seconds of training
and scoring.
"""

import sys
import time

import evaluate  # noqa: F401 - as one would; its metrics are fetched from the hub, the one below is not
import numpy as np
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

backbone, train, test, steps, seed = sys.argv[1:]
torch.set_num_threads(1)
rows = load_dataset("csv", data_files={"train": train, "test": test})
tokenizer = AutoTokenizer.from_pretrained(backbone)
encoded = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=32), batched=True)
model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=2)
model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"]))


def accuracy(predicted):
    """Share of rows whose largest logit is the label's."""
    return {"accuracy": float((np.argmax(predicted.predictions, axis=-1) == predicted.label_ids).mean())}


settings = TrainingArguments(
    output_dir="unused", max_steps=int(steps), per_device_train_batch_size=16, per_device_eval_batch_size=64,
    learning_rate=5e-3, warmup_steps=6, weight_decay=0.01, max_grad_norm=1.0, seed=int(seed), save_strategy="no",
    logging_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(
    model=model, args=settings, train_dataset=encoded["train"], eval_dataset=encoded["test"],
    data_collator=DataCollatorWithPadding(tokenizer), compute_metrics=accuracy,
)  # fmt: skip
before = time.process_time()
trainer.train()
score = trainer.evaluate()["eval_accuracy"]
sys.stdout.write(f"{score} {time.process_time() - before}\n")
