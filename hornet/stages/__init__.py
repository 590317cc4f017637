"""Where model, data and training meet: what pretraining and finetuning share."""
