"""What a process has imported from which others are forked, see `processes`: nothing else, and no thread."""

import gc
from importlib import import_module

for _module in (
    "ccmb.cli", "ccmb.search.index", "ccmb.tasks.finetuning", "ccmb.tasks.pretraining", "ccmb.tasks.retrieval_tuning",
    "torch.utils.tensorboard",
):  # fmt: skip
    import_module(_module)

gc.collect()
gc.freeze()  # what is here stays, and the pages that it is in are shared with the forks
