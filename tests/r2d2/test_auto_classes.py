"""What transformers knows of R2D2, each time in a process that has imported neither."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.exact import TINY_ERROR, product_error
from tests.helpers.tiny import TEXTS, tiny_images, tiny_model, tiny_processor

pytestmark = pytest.mark.numeric

USE = """
import sys, torch
from PIL import Image
folder, text = sys.argv[1:3]
assert type(AutoConfig.from_pretrained(folder)).__name__ == "R2D2Config"
model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
with torch.no_grad():
    scores = model(**processor(Image.open(f"{folder}/picture.png"), text), rank=True).scores
torch.save((type(model).__name__, type(processor).__name__, model.state_dict(), scores), f"{folder}/{index}.pt")
"""
AUTO = "from transformers import AutoConfig, AutoModel, AutoProcessor"
ORDERS = {
    "the network first": f"import ccmb.r2d2\n{AUTO}",
    "the network last": f"{AUTO}\nimport ccmb.r2d2",
    "transformers first": f"{AUTO}\nimport ccmb",
    "a name of ccmb": f"from ccmb import R2D2Config\n{AUTO}",
}
# A fork for each order, of a process that holds what takes longest to import.
FORKS = """
import os, sys
import torch._dynamo, torch.distributed.tensor, scipy.optimize
children = []
for index, script in enumerate(sys.argv[3:]):
    children.append(os.fork())
    if not children[-1]:
        exec(script, {"index": index})
        os._exit(0)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    tiny_images(1)[0].save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Path:
    """Results of all orders, `0.pt` and so on."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FORKS, str(folder), TEXTS[0], *(order + USE for order in ORDERS.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("index", range(len(ORDERS)), ids=list(ORDERS))
def test_the_auto_classes_load_a_model_folder_whatever_is_imported_first(loaded: Path, index: int) -> None:
    model, processor, weights, scores = torch.load(loaded / f"{index}.pt", weights_only=True)
    assert (model, processor) == ("R2D2Model", "R2D2Processor")
    network = tiny_model()
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        expected = network(**tiny_processor()(Image.open(loaded / "picture.png"), TEXTS[0]), rank=True).scores
    # Not bit for bit: weights lie elsewhere in memory.
    torch.testing.assert_close(scores, expected, rtol=0, atol=TINY_ERROR)


def test_importing_ccmb_or_its_corpus_imports_no_torch_and_changes_no_import() -> None:
    code = (
        "import sys; before = list(sys.meta_path); import ccmb.cli.main, ccmb.corpus.assembly.build; "
        "assert not {'torch', 'transformers'} & set(sys.modules); assert sys.meta_path == before"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_transformers_own_image_processor_reads_the_folder_and_agrees(folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    image = tiny_images(1, seed=3)[0].resize((70, 45))
    reference = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    # A product, a difference and a quotient in float32, of numbers up to 1 / 0.26.
    own = tiny_processor().images([image])
    torch.testing.assert_close(reference, own, rtol=0, atol=product_error(4, 4.0))
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tiny_processor().texts(TEXTS[:1])["input_ids"])
