"""Text pre-training, cooldown and fine-tuning: one trainer, three settings."""
