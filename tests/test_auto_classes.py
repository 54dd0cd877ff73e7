"""What transformers knows of R2D2, each time in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tiny import TEXTS, tiny_model, tiny_pictures, tiny_processor

USE = """
import sys, torch
from PIL import Image
folder, text = sys.argv[1:]
assert type(AutoConfig.from_pretrained(folder)).__name__ == "R2D2Config"
model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
with torch.no_grad():
    scores = model(**processor(Image.open(f"{folder}/picture.png"), text))
torch.save((type(model).__name__, type(processor).__name__, model.state_dict(), scores), f"{folder}/result.pt")
"""
AUTO = "from transformers import AutoConfig, AutoModel, AutoProcessor"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    tiny_pictures(1)[0].save(folder / "picture.png")
    return folder


@pytest.mark.parametrize(
    "imports",
    [f"import ccmb\n{AUTO}", f"{AUTO}\nimport ccmb", f"from ccmb import R2D2Config\n{AUTO}"],
    ids=["ccmb first", "transformers first", "a name of ccmb"],
)
def test_the_auto_classes_load_a_model_folder_in_a_fresh_process(folder: Path, imports: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", imports + USE, str(folder), TEXTS[0]]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    model, processor, weights, scores = torch.load(folder / "result.pt", weights_only=True)
    assert (model, processor) == ("R2D2Model", "R2D2Processor")
    network = tiny_model()
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        expected = network(**tiny_processor()(Image.open(folder / "picture.png"), TEXTS[0]))
    torch.testing.assert_close(scores, expected)  # not bit for bit: weights lie elsewhere in memory


def test_importing_ccmb_does_not_import_torch() -> None:
    code = "import sys, ccmb.cli; assert not {'torch', 'transformers'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_transformers_own_image_processor_reads_the_folder_and_agrees(folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    picture = tiny_pictures(1, seed=3)[0].resize((70, 45))
    theirs = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, tiny_processor().images([picture]))
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tiny_processor().texts(TEXTS[:1])["input_ids"])
