"""What a process has imported from which others are forked, see `processes`: nothing else, and no thread."""

import gc
from importlib import import_module

for _module in (
    "ccmb.cli.main", "ccmb.search.indexing.indexer", "ccmb.tasks.finetuning.run", "ccmb.tasks.pretraining.run",
    "ccmb.tasks.retrieval.finetune", "torch.utils.tensorboard",
):  # fmt: skip
    import_module(_module)

gc.collect()
gc.freeze()  # what is here stays, and the pages that it is in are shared with the forks
