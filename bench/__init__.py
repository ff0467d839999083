"""peft-ledger: what each way of fine-tuning a transformer costs, and what it buys."""
