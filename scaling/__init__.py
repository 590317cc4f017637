"""The data and model scaling study: laws fitted to finished runs, with proof, intervals and predictions.

Not here: training (`pretrain`, `finetune`), what a run will take (`hornet.planning`). Nothing here imports torch.
"""
