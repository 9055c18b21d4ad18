"""Makes tests/golden/encoder: a tiny random BERT and DistilBERT, and a ViT in bfloat16, as
transformers saves them, with what it computes of them; what torchvision's ResNet-18 computes of
weights made by arithmetic (`named_weights`); ids that transformers' BertTokenizer gives odd texts.

Run with an environment that has the `peers` extra; `python make_encoder_golden.py distilbert` makes
one of them. The file exists so that the ordinary suite proves parity without installing
transformers.
"""

import gzip
import json
import pathlib
import runpy
import sys
import zlib

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "peers"))
import conftest  # noqa: F401 (declares torchvision's operators)
import torch
import transformers

FOLDER = pathlib.Path(__file__).parent / "encoder"
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases that are not their first values."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def bert() -> None:
    """BertModel with its pooler, on texts of three lengths."""
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=12, **SIZES)
    model = randomise(transformers.BertModel(config))
    model.save_pretrained(FOLDER / "bert")
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 60, (3, 12)).astype(np.int32)
    mask = np.arange(12) < np.array([[12], [7], [1]])
    with torch.no_grad():
        out = model(torch.from_numpy(ids).long(), torch.from_numpy(mask).long())
    arrays = dict(text=ids, text_mask=mask, pooler=out.pooler_output.numpy())
    np.savez(FOLDER / "bert.npz", tokens=out.last_hidden_state.numpy(), **arrays)


def distilbert() -> None:
    """DistilBertModel under a head of masked words, on texts of three lengths."""
    sizes = dict(dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    config = transformers.DistilBertConfig(vocab_size=60, max_position_embeddings=12, **sizes)
    model = randomise(transformers.DistilBertForMaskedLM(config))
    model.save_pretrained(FOLDER / "distilbert")
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 60, (3, 12)).astype(np.int32)
    mask = np.arange(12) < np.array([[12], [7], [1]])
    with torch.no_grad():
        given = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
        out = model.distilbert(*given)
    tokens = out.last_hidden_state.numpy()
    np.savez(FOLDER / "distilbert.npz", tokens=tokens, text=ids, text_mask=mask)


def named_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights of a convolutional network by their names: the same on every machine."""
    found = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) > 1:
            array = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) / 2)
        elif name.endswith(("running_var", "weight")):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(size=shape) * 0.1
        found[name] = array.astype(np.float32)
    return found


def resnet() -> None:
    """torchvision's resnet18 up to its classifier, on pictures of an odd size."""
    import torchvision

    model = torchvision.models.resnet18(num_classes=3).eval()
    state = model.state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items() if "num_batches" not in k}
    own = {name: torch.from_numpy(array) for name, array in named_weights(shapes).items()}
    model.load_state_dict({**state, **own})
    model.fc = torch.nn.Identity()
    images = np.random.default_rng(0).normal(size=(2, 65, 65, 3)).astype(np.float32)
    with torch.no_grad():
        pooled = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    names = json.dumps({name: shape for name, shape in shapes.items()})
    np.savez_compressed(FOLDER / "resnet18.npz", pooled=pooled, shapes=np.array(names))


def wordpiece() -> None:
    """Ids of a small vocabulary in lower case and with case."""
    make = runpy.run_path(str(FOLDER.parent / "make_tokenizer_golden.py"))["odd_strings"]
    texts = [text for text in make(260, seed=2) if "\ud800" not in text]
    letters = [chr(c) for c in range(33, 127)]
    words = ["a", "photo", "of", "the", "dog", "cat", "Dog", "##s", "##ing", "un", "##happy"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*letters, *words])]
    pieces += [f"##{letter}" for letter in letters if f"##{letter}" not in pieces]
    folder = FOLDER / "wordpiece"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    rows = {}
    for lower in (True, False):
        theirs = transformers.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=lower)
        rows[str(lower)] = [theirs(text)["input_ids"] for text in texts]
    with gzip.open(folder / "ids.json.gz", "wt", encoding="utf-8") as file:
        json.dump({"texts": texts, **rows}, file)


def vit() -> None:
    """ViTModel with its pooler; what it computes is of the rounded weights in float32."""
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SIZES)
    model = randomise(transformers.ViTModel(config)).to(torch.bfloat16)
    model.save_pretrained(FOLDER / "vit")
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        out = model.float()(pixels)
    tokens, pooler = out.last_hidden_state.numpy(), out.pooler_output.numpy()
    np.savez(FOLDER / "vit.npz", image=image, tokens=tokens, pooler=pooler)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for make in sys.argv[1:] or ("bert", "distilbert", "vit", "resnet", "wordpiece"):
        globals()[make]()
